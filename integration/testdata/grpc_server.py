"""A gRPC server without generated code: messages are bytes."""
import sys
from concurrent import futures

import grpc


def say(request, context):
    """One message there, one back, with metadata before and behind it."""
    meta = dict(context.invocation_metadata())
    context.send_initial_metadata((("begins", meta.get("token", "none")),))
    context.set_trailing_metadata((("ends", "yes"),))
    return b"you said " + request


def count(request, context):
    """One message there, as many back as it says."""
    for i in range(int(request)):
        yield b"%d" % i


def add(requests, context):
    """Any number of messages there, their total length back."""
    return b"%d" % sum(len(r) for r in requests)


def echo(requests, context):
    """Each message back before the next one is read."""
    for r in requests:
        yield r


def fail(request, context):
    """No message back, but a status in the trailers, that says why."""
    context.set_trailing_metadata((("why", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this")


def late(request, context):
    """A message back, and then the status of a failure."""
    yield b"half"
    context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {
    "Say": grpc.unary_unary_rpc_method_handler(say),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Add": grpc.stream_unary_rpc_method_handler(add),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Late": grpc.unary_stream_rpc_method_handler(late),
}),))
key, cert = (open(name, "rb").read() for name in sys.argv[1:3])
server.add_secure_port("[::]:443", grpc.ssl_server_credentials(((key, cert),)))
server.start()
print("ready", flush=True)
server.wait_for_termination()
