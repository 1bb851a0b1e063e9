"""The messages of the Open Inference Protocol, version 2, over gRPC, in a descriptor pool of their own.

There is no generated code: what other packages generate from the same protocol stands in protobuf's default pool, which
takes each name once in a process, and generated code refuses runtimes that are older than its compiler.
Source: github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
_PARAMETERS = "map<InferParameter> parameters"
_FIELDS: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready",),
    "ModelReadyRequest": ("string name", "string version"),
    "ModelReadyResponse": ("bool ready",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("string name", "string version", "string* extensions"),
    "ModelMetadataRequest": ("string name", "string version"),
    "ModelMetadataResponse": (
        "string name", "string* versions", "string platform", "ModelMetadataResponse.TensorMetadata* inputs",
        "ModelMetadataResponse.TensorMetadata* outputs",
    ),
    "ModelMetadataResponse.TensorMetadata": ("string name", "string datatype", "int64* shape"),
    "InferParameter": (
        "bool bool_param", "int64 int64_param", "string string_param", "double double_param", "uint64 uint64_param",
    ),
    "InferTensorContents": (
        "bool* bool_contents", "int32* int_contents", "int64* int64_contents", "uint32* uint_contents",
        "uint64* uint64_contents", "float* fp32_contents", "double* fp64_contents", "bytes* bytes_contents",
    ),
    "ModelInferRequest": (
        "string model_name", "string model_version", "string id", _PARAMETERS,
        "ModelInferRequest.InferInputTensor* inputs", "ModelInferRequest.InferRequestedOutputTensor* outputs",
        "bytes* raw_input_contents",
    ),
    "ModelInferRequest.InferInputTensor": (
        "string name", "string datatype", "int64* shape", _PARAMETERS, "InferTensorContents contents",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": ("string name", _PARAMETERS),
    "ModelInferResponse": (
        "string model_name", "string model_version", "string id", _PARAMETERS,
        "ModelInferResponse.InferOutputTensor* outputs", "bytes* raw_output_contents",
    ),
    "ModelInferResponse.InferOutputTensor": (
        "string name", "string datatype", "int64* shape", _PARAMETERS, "InferTensorContents contents",
    ),
}  # fmt: skip
"""The fields of each message, numbered from 1; `*` says that there are many. A dot names a message within another."""
_ONE_OF = {"InferParameter": "parameter_choice"}
"""Messages of whose fields one is given."""
_Field = descriptor_pb2.FieldDescriptorProto


def file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """Return the protocol's messages as protobuf describes a file."""
    file = descriptor_pb2.FileDescriptorProto(name="modelmill/inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in _FIELDS.items():
        outer, _, inner = name.rpartition(".")
        message = made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        if name in _ONE_OF:
            message.oneof_decl.add(name=_ONE_OF[name])
        for number, declared in enumerate(fields, start=1):
            _add_field(message, name, number, declared)
    return file


def _add_field(message: Any, owner: str, number: int, declared: str) -> None:
    kind, _, name = declared.partition(" ")
    if kind.startswith("map<"):
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "", 1, "string key")
        _add_field(entry, "", 2, f"{kind[4:-1]} value")
        kind = f"{owner}.{entry.name}*"
    plain = kind.removesuffix("*")
    field = message.field.add(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
    scalar = f"TYPE_{plain.upper()}"
    if scalar in _Field.Type.keys():  # noqa: SIM118 - protobuf's enumerations are no mappings
        field.type = _Field.Type.Value(scalar)
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{plain}"
    if owner in _ONE_OF:
        field.oneof_index = 0


def _make_messages() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_descriptor().SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _FIELDS}


MESSAGES = _make_messages()
"""The message classes by their names."""
