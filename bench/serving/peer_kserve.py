"""KServe's Python server with the model class of its own scikit-learn server: ``python peer_kserve.py FOLDER MODEL PORT``."""

import logging
import pickle
import sys
import warnings
from pathlib import Path

FOLDER, MODEL, PORT = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.argv = sys.argv[:1]  # KServe reads the command line when it is imported

import kserve.model_server
from kserve import Model, ModelServer
from kserve.protocol.rest.server import RESTServer
from kserve.utils.utils import get_predict_input, get_predict_response


class SKLearnModel(Model):
    """``sklearnserver.SKLearnModel``, which is not on PyPI, with PREDICT_PROBA set."""

    def load(self):
        """Read the pickle."""
        self._model = pickle.loads((FOLDER / f"{self.name}.pickle").read_bytes())
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None):
        """Answer rows."""
        return get_predict_response(payload, self._model.predict_proba(get_predict_input(payload)), self.name)


class LocalServer(RESTServer):
    """KServe listens on every address, and has no option for it."""

    def __init__(self, *parts, **named):
        super().__init__(*parts, **named)
        self.config.host = "127.0.0.1"


kserve.model_server.RESTServer = LocalServer
model = SKLearnModel(MODEL)
model.load()
server = ModelServer(http_port=PORT, workers=1, enable_grpc=False, enable_latency_logging=False)
# It has set up logging by now: a line for each request, and three with its timings.
logging.getLogger("kserve.trace").setLevel(logging.WARNING)
logging.getLogger("uvicorn.access").handlers = []
logging.getLogger("uvicorn.access").propagate = False
# The FastAPI that it asks for warns of KServe's own class of answers, at every request.
warnings.filterwarnings("ignore", message="ORJSONResponse")
server.start([model])
