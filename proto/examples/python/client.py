"""A client of Tandem in Python: streams one answer, with retries, deadline, cancel, token and TLS.

Only the .proto is needed to make the stubs (pip install grpcio grpcio-tools, or Debian's
python3-grpcio and python3-grpc-tools):

  python3 -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. \
      proto/tandem/v1/inference.proto
  python3 proto/examples/python/client.py localhost:50051 "Why is the sky blue?"
"""

import argparse
import json
import os
import sys
import threading

try:
  import grpc

  from tandem.v1 import inference_pb2 as pb
  from tandem.v1 import inference_pb2_grpc as pb_grpc
except ModuleNotFoundError as missing:
  print(f"client.py: the Python module {missing.name} is missing; the top of client.py has the "
        "two commands that install it", file=sys.stderr)
  sys.exit(69)

# Retry UNAVAILABLE (the server starts, drains, or has lost a rank). gRPC retries only before the
# first message, so no text arrives twice. A full queue answers RESOURCE_EXHAUSTED: retry that after
# the delay of RetryInfo in its details, or on another server.
SERVICE_CONFIG = json.dumps({
    "methodConfig": [{
        "name": [{"service": "tandem.v1.InferenceService"}],
        "retryPolicy": {
            "maxAttempts": 5,
            "initialBackoff": "0.2s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }],
})

OPTIONS = [
    ("grpc.service_config", SERVICE_CONFIG),
    # Notices a server that is gone. The server disconnects clients that ping more often than every
    # 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def connect(address, ca=None):
  if ca is None:
    return grpc.insecure_channel(address, options=OPTIONS)
  with open(ca, "rb") as file:
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()), options=OPTIONS)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("address")
  parser.add_argument("question")
  parser.add_argument("--deadline", type=float, default=60, help="seconds for the whole answer")
  parser.add_argument("--patience", type=float, help="cancel after so many seconds")
  parser.add_argument("--max-tokens", type=int, default=512)
  parser.add_argument("--temperature", type=float)
  parser.add_argument("--ca", help="PEM file that signs the server's certificate")
  arguments = parser.parse_args()

  request = pb.GenerateRequest(
      messages=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=arguments.question)]),
      sampling=pb.SamplingParams(max_tokens=arguments.max_tokens))
  if arguments.temperature is not None:
    request.sampling.temperature = arguments.temperature
  metadata = []
  if "TANDEM_TOKEN" in os.environ:
    metadata.append(("authorization", f"Bearer {os.environ['TANDEM_TOKEN']}"))

  with connect(arguments.address, arguments.ca) as channel:
    stub = pb_grpc.InferenceServiceStub(channel)
    # The call carries the deadline: the server drops the request when it has passed.
    call = stub.Generate(request, timeout=arguments.deadline, metadata=metadata)
    if arguments.patience is not None:
      # As if the user closed the page. The server frees the request's memory before its next step.
      threading.Timer(arguments.patience, call.cancel).start()
    try:
      for message in call:
        print(message.text, end="", flush=True)
      print()
      print(f"{message.usage.completion_tokens} tokens", file=sys.stderr)
    except grpc.RpcError as error:
      print(f"\n{error.code().name}: {error.details()}", file=sys.stderr)
      return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
