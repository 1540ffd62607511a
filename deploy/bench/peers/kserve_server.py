"""`kserve_server.py MODEL.onnx NAME GRPC_PORT HTTP_PORT`: a custom predictor of KServe's SDK, as documented."""

import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from model import session, tensors


class Ranker(Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.session = session(path)
        self.ready = True

    async def get_input_types(self) -> list[dict]:
        return described(self.session.get_inputs())

    async def get_output_types(self) -> list[dict]:
        return described(self.session.get_outputs())

    def predict(self, payload: InferRequest, headers: dict | None = None, *_: object) -> InferResponse:
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        (score,) = self.session.run(["score"], feeds)
        output = InferOutput(name="score", shape=list(score.shape), datatype="FP32")
        output.set_data_from_numpy(score, binary_data=True)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])


def described(values: list) -> list[dict]:
    return [{"name": name, "datatype": kind, "shape": shape} for name, kind, shape in tensors(values)]


if __name__ == "__main__":
    path, name, grpc, http = sys.argv[1:]
    server = ModelServer(http_port=int(http), grpc_port=int(grpc), enable_latency_logging=False)
    server.start([Ranker(name, path)])
