"""Compiles every proto of Skerry to Python: what any user of the protos would do with grpcio-tools.

Usage: generate.py PROTO_DIR OUT_DIR
"""

import importlib.resources
import pathlib
import sys

from grpc_tools import protoc


def main(proto_dir: str, out_dir: str) -> int:
    sources = sorted(str(path) for path in pathlib.Path(proto_dir).rglob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    includes = [f"-I{proto_dir}", f"-I{well_known}"]
    return protoc.main(["protoc", *includes, f"--python_out={out_dir}", f"--grpc_python_out={out_dir}", *sources])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
