"""Calls grpc_server.py on the host that it is given, in every way, and says what came of it."""
import os
import queue
import sys

import grpc

channel = grpc.secure_channel(sys.argv[1] + ":443", grpc.ssl_channel_credentials())

def method(kind, name):
    return getattr(channel, kind)("/test.Test/" + name)

say, call = method("unary_unary", "Say").with_call(b"hello", timeout=30, metadata=(("token", os.environ.get("TOKEN", "none")),))
print("unary:", say, dict(call.initial_metadata()).get("begins"), dict(call.trailing_metadata()).get("ends"), call.code().name)

print("server streams:", sum(1 for _ in method("unary_stream", "Count")(b"1000", timeout=30)))

print("client streams:", method("stream_unary", "Add")((b"x" * 1000 for _ in range(1000)), timeout=30))

asked = queue.Queue()
answers = method("stream_stream", "Echo")(iter(asked.get, None), timeout=30)
for i in range(100):
    asked.put(b"%d" % i)
    assert next(answers) == b"%d" % i
asked.put(None)
print("in turns:", list(answers))

for kind, name in (("unary_unary", "Fail"), ("unary_stream", "Late")):
    try:
        answer = method(kind, name)(b"", timeout=30)
        print(name, "got", next(answer))
        next(answer)
    except grpc.RpcError as e:
        print(name, "fails:", e.code().name, e.details(), dict(e.trailing_metadata()).get("why"))
