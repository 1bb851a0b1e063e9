"""A fitted object as bytes that answer: packed into plain arrays where its family is known, pickled otherwise.

`saving` chooses and proves, `packed` is a model of plain arrays (`columns` before, `linear` or `trees` inside, a link and
a program after), `kernels` runs it; `sklearn_*`, `lightgbm_trees` and `xgboost_trees` read each library's own structures.
`graph` is a model of ONNX Runtime, which `converting` makes of what has no such arrays: scikit-learn's objects, `networks` of
torch, and `onnx_files`; `optimising` brings it into the form in which it is opened.
Nothing here imports those libraries: whoever holds a fitted object has them already, and a serving node needs none.
"""
