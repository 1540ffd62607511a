"""`grpcio_server.py MODEL.onnx NAME GRPC_PORT HTTP_PORT`: the plainest server that one would write in Python."""

import sys
import tempfile
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
from grpc_tools import protoc

from model import session, tensors

PROTO = Path(__file__).resolve().parents[3] / "proto"
NUMBERS = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}


def generated() -> tuple:
    """The protocol's messages and service, from Endcap's own proto."""
    folder = tempfile.mkdtemp(prefix="endcap-peer-")
    arguments = [f"--python_out={folder}", f"--grpc_python_out={folder}", "inference/grpc_service.proto"]
    if protoc.main(["protoc", f"-I{PROTO}", *arguments]) != 0:
        sys.exit("the protocol does not compile")
    sys.path.insert(0, folder)
    from inference import grpc_service_pb2, grpc_service_pb2_grpc

    return grpc_service_pb2, grpc_service_pb2_grpc


def main() -> None:
    path, name, port, _http = sys.argv[1:]
    pb, services = generated()
    model = session(path)
    inputs, outputs = tensors(model.get_inputs()), tensors(model.get_outputs())

    class Service(services.GRPCInferenceServiceServicer):
        def ModelMetadata(self, request, context):  # noqa: ANN001, ANN202
            tensor = pb.ModelMetadataResponse.TensorMetadata
            return pb.ModelMetadataResponse(
                name=name,
                inputs=[tensor(name=n, datatype=t, shape=s) for n, t, s in inputs],
                outputs=[tensor(name=n, datatype=t, shape=s) for n, t, s in outputs],
            )

        def ModelInfer(self, request, context):  # noqa: ANN001, ANN202
            pairs = zip(request.inputs, request.raw_input_contents, strict=True)
            feeds = {i.name: np.frombuffer(raw, NUMBERS[i.datatype]).reshape(i.shape) for i, raw in pairs}
            (score,) = model.run([outputs[0][0]], feeds)
            tensor = pb.ModelInferResponse.InferOutputTensor
            output = tensor(name=outputs[0][0], datatype="FP32", shape=score.shape)
            return pb.ModelInferResponse(model_name=name, outputs=[output], raw_output_contents=[score.tobytes()])

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    services.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
