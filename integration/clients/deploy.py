"""Watches nodes until one is connected, applies an app, waits until it is healthy, deletes it.

Usage: deploy.py HOST:PORT [VERSION]
VERSION: a resource version of nodes that was seen before; the watch continues from there.
"""

import os
import pathlib
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from skerry.registry.v1 import registry_pb2, registry_pb2_grpc
from skerry.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from skerry.type.v1 import meta_pb2

PROJECT = "projects/default"
APP = f"{PROJECT}/apps/from-python"
CALL_S = 10  # the longest that one call may take
WAIT_S = 60  # the longest that a state is waited for
BACKOFF_S, BACKOFF_MAX_S = 0.1, 5
# It may or may not have happened: with the same request id a repeat does no harm.
TRY_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def backoff() -> Iterator[None]:
    """Waits a while at each step, longer each time, never two clients alike."""
    longest = BACKOFF_S
    while True:
        time.sleep(random.uniform(0, longest))
        longest = min(2 * longest, BACKOFF_MAX_S)
        yield


def explain(error: grpc.RpcError) -> str:
    """The status with its google.rpc details: one reason for programs, and for bad input each field."""
    lines = [f"{error.code().name}: {error.details()}"]
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            lines.append(f"  reason: {info.reason} ({info.domain})")
        elif detail.Unpack(request):
            lines += [f"  {fault.field}: {fault.description}" for fault in request.field_violations]
    return "\n".join(lines)


def change(method: Callable, request) -> object:
    """Calls a method that changes something, again until there is an answer. The request id makes all tries one."""
    request.request_id = str(uuid.uuid4())
    end, wait = time.monotonic() + WAIT_S, backoff()
    while True:
        try:
            return method(request, timeout=CALL_S)
        except grpc.RpcError as error:
            if error.code() not in TRY_AGAIN or time.monotonic() > end:
                raise
            next(wait)


def watch(method: Callable, request) -> Iterator:
    """Changes after `request.resource_version`, for WAIT_S. Empty: first the present state as ADDED, then a BOOKMARK."""
    end, wait = time.monotonic() + WAIT_S, backoff()
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"nothing came of it within {WAIT_S} s")
        try:
            for told in method(request, timeout=left):
                # Should the stream break, the next one continues from here.
                request.resource_version = told.resource_version
                yield told
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                # Too old, or we were too slow: whoever keeps what was told drops what the new ADDED do not name.
                print("that version is no longer known: from the present state on")
                request.resource_version = ""
            elif error.code() not in TRY_AGAIN:
                raise
        next(wait)


def connected_node(nodes: registry_pb2_grpc.NodeServiceStub, version: str) -> str:
    request = registry_pb2.WatchNodesRequest(parent=PROJECT, resource_version=version)
    for told in watch(nodes.WatchNodes, request):
        if told.node.status.connection.connected:
            print(f"nodes as of {told.resource_version}")
            return told.node.metadata.name
    raise AssertionError("a watch has no end")


def app(program: str) -> scheduler_pb2.App:
    wanted = scheduler_pb2.App()
    wanted.metadata.name = APP
    service = wanted.spec.services.add(name="main")
    service.process.program = program
    service.process.args.append("1000000")
    return wanted


def wait_healthy(apps: scheduler_pb2_grpc.AppServiceStub, generation: int) -> None:
    """Until the scheduler has looked at this generation of the app and every instance of it is ready."""
    for told in watch(apps.WatchApps, scheduler_pb2.WatchAppsRequest(parent=PROJECT)):
        status = told.app.status
        if told.app.metadata.name == APP and status.observed_generation >= generation:
            available = [one for one in status.conditions if one.type == "Available"]
            if available and available[0].status == meta_pb2.Condition.TRUE:
                return


def open_channel(address: str) -> grpc.Channel:
    """Mutual TLS by the files that SKERRY_TLS_CA, _KEY and _CERT name; without them plain HTTP/2, for a server with --insecure."""
    files = [os.environ.get(f"SKERRY_TLS_{name}") for name in ("CA", "KEY", "CERT")]
    if not all(files):
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*(pathlib.Path(file).read_bytes() for file in files)))


def main(address: str, version: str = "") -> None:
    with open_channel(address) as channel:
        nodes = registry_pb2_grpc.NodeServiceStub(channel)
        apps = scheduler_pb2_grpc.AppServiceStub(channel)
        print(f"{connected_node(nodes, version)} is connected")

        try:
            change(apps.UpdateApp, scheduler_pb2.UpdateAppRequest(app=app(program=""), allow_missing=True))
        except grpc.RpcError as error:
            print(explain(error))

        request = scheduler_pb2.UpdateAppRequest(app=app(program="sleep"), allow_missing=True)
        applied = change(apps.UpdateApp, request)
        wait_healthy(apps, applied.app.metadata.generation)
        print(f"{APP} is healthy")
        change(apps.DeleteApp, scheduler_pb2.DeleteAppRequest(name=APP))


if __name__ == "__main__":
    main(*sys.argv[1:])
