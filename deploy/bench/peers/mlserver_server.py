"""`mlserver_server.py MODEL.onnx NAME GRPC_PORT HTTP_PORT`: a custom runtime of MLServer, as documented."""

import asyncio
import logging
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor

from model import session, tensors


class Ranker(MLModel):
    async def load(self) -> bool:
        self.session = session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        (score,) = self.session.run(["score"], feeds)
        output = NumpyCodec.encode_output("score", score)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    path, name, grpc, http = sys.argv[1:]
    # A line per request is not what is measured.
    logging.disable(logging.INFO)
    loaded = session(path)

    def described(values: list) -> list[MetadataTensor]:
        return [MetadataTensor(name=name, datatype=kind, shape=shape) for name, kind, shape in tensors(values)]

    # No workers of its own: there is one core, and the model in this process costs least.
    settings = Settings(
        host="127.0.0.1", grpc_port=int(grpc), http_port=int(http), metrics_endpoint=None, parallel_workers=0
    )
    model = ModelSettings(
        name=name,
        implementation=Ranker,
        inputs=described(loaded.get_inputs()),
        outputs=described(loaded.get_outputs()),
        parameters=ModelParameters(uri=path),
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
