"""A client that knows no proto: asks the server by reflection what there is, then lists nodes and applies an app.

Usage: from_reflection.py HOST:PORT
"""

import os
import pathlib
import sys
import uuid

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

PROJECT = "projects/default"
APP = f"{PROJECT}/apps/from-reflection"
DEADLINE_S = 10
SERVICES = {
    "skerry.registry.v1.NodeService",
    "skerry.registry.v1.EventService",
    "skerry.scheduler.v1.AppService",
    "skerry.scheduler.v1.ConfigService",
    "grpc.health.v1.Health",
}


class Client:
    """Calls any unary method by its name, with dictionaries for messages."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        database = ProtoReflectionDescriptorDatabase(channel)
        self.services = set(database.get_services())
        self._pool = DescriptorPool(database)

    def call(self, method: str, request: dict) -> dict:
        service, name = method.split("/")
        descriptor = self._pool.FindServiceByName(service).FindMethodByName(name)
        answer_class = GetMessageClass(descriptor.output_type)
        call = self._channel.unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer_class.FromString,
        )
        message = json_format.ParseDict(request, GetMessageClass(descriptor.input_type)())
        return json_format.MessageToDict(call(message, timeout=DEADLINE_S))


def app(greeting: str) -> dict:
    return {
        "metadata": {"name": APP},
        "spec": {
            # Matches nothing: this is about the API, not about running.
            "selector": {"matchLabels": {"no-such-label": "nowhere"}},
            "services": [
                {"name": "web", "process": {"program": "sleep", "args": ["1000"]}, "env": {"GREETING": greeting}},
            ],
        },
    }


def open_channel(address: str) -> grpc.Channel:
    """Mutual TLS by the files that SKERRY_TLS_CA, _KEY and _CERT name; without them plain HTTP/2, for a server with --insecure."""
    files = [os.environ.get(f"SKERRY_TLS_{name}") for name in ("CA", "KEY", "CERT")]
    if not all(files):
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*(pathlib.Path(file).read_bytes() for file in files)))


def main(address: str) -> None:
    with open_channel(address) as channel:
        client = Client(channel)
        missing = SERVICES - client.services
        assert not missing, f"reflection does not tell of {missing}, only of {client.services}"

        health = client.call("grpc.health.v1.Health/Check", {})
        assert health["status"] == "SERVING", health

        nodes = client.call("skerry.registry.v1.NodeService/ListNodes", {"parent": PROJECT})["nodes"]
        assert nodes, "skerry up has a node of its own"
        for node in nodes:
            print(f"{node['metadata']['name']}: {node['status']['machine']['architecture']}")

        for greeting, outcome in [("one", "CREATED"), ("one", "UNCHANGED"), ("two", "UPDATED")]:
            request = {"app": app(greeting), "allowMissing": True, "requestId": str(uuid.uuid4())}
            answer = client.call("skerry.scheduler.v1.AppService/UpdateApp", request)
            assert answer["outcome"] == outcome, (outcome, answer)
        apps = client.call("skerry.scheduler.v1.AppService/ListApps", {"parent": PROJECT})["apps"]
        assert [one["metadata"]["name"] for one in apps] == [APP], apps
        client.call("skerry.scheduler.v1.AppService/DeleteApp", {"name": APP, "requestId": str(uuid.uuid4())})
    print("a client with reflection alone lists nodes and applies an app")


if __name__ == "__main__":
    main(sys.argv[1])
