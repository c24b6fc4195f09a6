"""Applies an app, follows what it writes until there are ten lines, and deletes it. A stream that breaks is opened again from where it was.

Usage: tail.py HOST:PORT
"""

import sys
import time
from collections.abc import Iterator

import grpc
from deploy import APP, TRY_AGAIN, WAIT_S, app, backoff, change, open_channel, wait_healthy
from skerry.relay.v1 import relay_pb2, relay_pb2_grpc
from skerry.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

LINES = 10


def tail(logs: relay_pb2_grpc.RelayServiceStub, name: str) -> Iterator[tuple[str, bytes]]:
    """Instance and line, each line once, for WAIT_S. Lines are bytes; what is longer than 16 KiB comes in parts."""
    end, wait = time.monotonic() + WAIT_S, backoff()
    positions = {}
    while True:
        request = relay_pb2.LogsRequest(app=name, follow=True)
        for (instance, node), position in positions.items():
            request.positions.add(instance=instance, node=node, position=position)
        try:
            for told in logs.Logs(request, timeout=max(end - time.monotonic(), 0)):
                if told.HasField("notice"):
                    print(f"{told.instance}: {told.notice.message}", file=sys.stderr)
                for line in told.lines:
                    yield told.instance, line.data
                # After the lines: should the stream break, the next one continues from here.
                if told.position:
                    positions[told.instance, told.node] = told.position
        except grpc.RpcError as error:
            if error.code() not in TRY_AGAIN or time.monotonic() > end:
                raise
        next(wait)


def main(address: str) -> None:
    with open_channel(address) as channel:
        apps = scheduler_pb2_grpc.AppServiceStub(channel)
        wanted = app(program="sh")
        wanted.spec.services[0].process.args[:] = ["-c", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done"]
        applied = change(apps.UpdateApp, scheduler_pb2.UpdateAppRequest(app=wanted, allow_missing=True))
        wait_healthy(apps, applied.app.metadata.generation)
        for count, (instance, line) in enumerate(tail(relay_pb2_grpc.RelayServiceStub(channel), APP), start=1):
            print(f"{instance}: {line.decode(errors='replace')}")
            if count == LINES:
                break
        change(apps.DeleteApp, scheduler_pb2.DeleteAppRequest(name=APP))


if __name__ == "__main__":
    main(*sys.argv[1:])
