"""A client made from the protos alone: lists the nodes, creates an app, changes it, sees the change, deletes it.

Usage: from_protos.py HOST:PORT, with generate.py's output on PYTHONPATH.
"""

import os
import pathlib
import sys
import time
import uuid

import grpc
from skerry.registry.v1 import registry_pb2, registry_pb2_grpc
from skerry.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

PROJECT = "projects/default"
APP = f"{PROJECT}/apps/from-protos"
DEADLINE_S = 10
# The agent of `skerry up` connects a moment after the server is ready.
NODE_DEADLINE_S = 30


def list_nodes(nodes: registry_pb2_grpc.NodeServiceStub) -> list[registry_pb2.Node]:
    """Every node, page by page."""
    found, token = [], ""
    while True:
        request = registry_pb2.ListNodesRequest(parent=PROJECT, page_size=1, page_token=token)
        page = nodes.ListNodes(request, timeout=DEADLINE_S)
        found.extend(page.nodes)
        token = page.next_page_token
        if not token:
            assert page.resource_version, "the last page carries the version that a watch continues from"
            return found


def wait_for_nodes(nodes: registry_pb2_grpc.NodeServiceStub) -> list[registry_pb2.Node]:
    end = time.monotonic() + NODE_DEADLINE_S
    while time.monotonic() < end:
        found = list_nodes(nodes)
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no node within {NODE_DEADLINE_S} s")


def app(greeting: str) -> scheduler_pb2.App:
    wanted = scheduler_pb2.App()
    wanted.metadata.name = APP
    wanted.metadata.labels["made-by"] = "python"
    # Matches nothing: this is about the API, not about running.
    wanted.spec.selector.match_labels["no-such-label"] = "nowhere"
    service = wanted.spec.services.add(name="web")
    service.process.program = "sleep"
    service.process.args.append("1000")
    service.env["GREETING"] = greeting
    return wanted


def apply(apps: scheduler_pb2_grpc.AppServiceStub, wanted: scheduler_pb2.App) -> scheduler_pb2.UpdateAppResponse:
    request = scheduler_pb2.UpdateAppRequest(app=wanted, allow_missing=True, request_id=str(uuid.uuid4()))
    return apps.UpdateApp(request, timeout=DEADLINE_S)


def open_channel(address: str) -> grpc.Channel:
    """Mutual TLS by the files that SKERRY_TLS_CA, _KEY and _CERT name; without them plain HTTP/2, for a server with --insecure."""
    files = [os.environ.get(f"SKERRY_TLS_{name}") for name in ("CA", "KEY", "CERT")]
    if not all(files):
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*(pathlib.Path(file).read_bytes() for file in files)))


def main(address: str) -> None:
    with open_channel(address) as channel:
        found = wait_for_nodes(registry_pb2_grpc.NodeServiceStub(channel))
        for node in found:
            print(f"{node.metadata.name}: {node.status.machine.os}/{node.status.machine.architecture}")
            assert node.metadata.name.startswith(f"{PROJECT}/nodes/"), node.metadata.name
            assert node.metadata.uid, "the server sets a uid"

        apps = scheduler_pb2_grpc.AppServiceStub(channel)
        outcomes = scheduler_pb2.UpdateAppResponse.Outcome
        created = apply(apps, app("one"))
        assert created.outcome == outcomes.CREATED, outcomes.Name(created.outcome)
        assert created.app.metadata.generation == 1, created.app.metadata

        same = apply(apps, app("one"))
        assert same.outcome == outcomes.UNCHANGED, outcomes.Name(same.outcome)

        changed = apply(apps, app("two"))
        assert changed.outcome == outcomes.UPDATED, outcomes.Name(changed.outcome)
        read = apps.GetApp(scheduler_pb2.GetAppRequest(name=APP), timeout=DEADLINE_S).app
        assert read.spec.services[0].env["GREETING"] == "two", read
        assert read.metadata.generation == 2, read.metadata
        print(f"{read.metadata.name}: {read.status.revision or 'no revision yet'}")

        stale = app("three")
        stale.metadata.etag = created.app.metadata.etag
        try:
            apply(apps, stale)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.ABORTED, error
        else:
            raise AssertionError("a stale etag is refused")

        apps.DeleteApp(scheduler_pb2.DeleteAppRequest(name=APP, request_id=str(uuid.uuid4())), timeout=DEADLINE_S)
        try:
            apps.GetApp(scheduler_pb2.GetAppRequest(name=APP), timeout=DEADLINE_S)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error
        else:
            raise AssertionError("a deleted app is not found")
    print("a client made from the protos alone lists nodes and applies an app")


if __name__ == "__main__":
    main(sys.argv[1])
