"""An OTLP receiver that thanks for everything and keeps nothing. Prints its address first."""

from concurrent import futures

import grpc


class Thanks(grpc.GenericRpcHandler):
    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        # An empty message is ExportTraceServiceResponse's "all taken".
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")


if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Thanks(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()
