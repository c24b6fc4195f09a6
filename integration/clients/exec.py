"""Applies an app, runs a command in it with what stands on standard input, and ends with the exit code of the command.

Usage: exec.py HOST:PORT COMMAND [ARGUMENT ...]
"""

import os
import sys
import threading
from collections.abc import Iterator

import grpc
from deploy import APP, app, change, explain, open_channel, wait_healthy
from skerry.relay.v1 import exec_pb2, relay_pb2_grpc
from skerry.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

PIECE = 32 * 1024  # most of standard input in one request; 64 KiB is allowed
NOBODY_KNOWS = 125  # as `skerry exec`: no exit code of a command


def requests(command: list[str], over: threading.Event) -> Iterator[exec_pb2.ExecRequest]:
    """What to run, its input, and the end of its input. The stream stays open until the command has ended: who hangs up has it killed."""
    yield exec_pb2.ExecRequest(start=exec_pb2.ExecStart(app=APP, command=command, stdin=True))
    while piece := os.read(0, PIECE):
        yield exec_pb2.ExecRequest(stdin=piece)
    yield exec_pb2.ExecRequest(stdin_end=exec_pb2.StdinEnd())
    over.wait()


def run(relay: relay_pb2_grpc.RelayServiceStub, command: list[str]) -> int:
    """Its exit code. What it writes is written here, byte by byte."""
    over = threading.Event()
    try:
        for answer in relay.Exec(requests(command, over)):
            match answer.WhichOneof("body"):
                case "started":
                    print(f"it runs in {answer.started.instance}", file=sys.stderr)
                case "stdout":
                    sys.stdout.buffer.write(answer.stdout)
                    sys.stdout.buffer.flush()
                case "stderr":
                    sys.stderr.buffer.write(answer.stderr)
                    sys.stderr.buffer.flush()
                case "exit":
                    if answer.exit.message:
                        print(answer.exit.message, file=sys.stderr)
                    return answer.exit.code
    except grpc.RpcError as error:
        print(explain(error), file=sys.stderr)
    finally:
        over.set()
    return NOBODY_KNOWS


def main(address: str, *command: str) -> int:
    with open_channel(address) as channel:
        apps = scheduler_pb2_grpc.AppServiceStub(channel)
        wanted = app(program="sleep")
        wanted.spec.services[0].process.args[:] = ["1000000"]
        applied = change(apps.UpdateApp, scheduler_pb2.UpdateAppRequest(app=wanted, allow_missing=True))
        wait_healthy(apps, applied.app.metadata.generation)
        try:
            return run(relay_pb2_grpc.RelayServiceStub(channel), list(command))
        finally:
            change(apps.DeleteApp, scheduler_pb2.DeleteAppRequest(name=APP))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
