"""Stands in for kind, kubectl, docker and git on PATH: records its calls and fails where told.

FAKE_FOLDER/calls     a JSON line for each call: program and arguments, and what came in
FAKE_FOLDER/fail      JSON: regular expression over a call to [exit code, text, how often]
FAKE_FOLDER/answers   JSON: regular expression over a call to what is printed
FAKE_FOLDER/clusters  names of kind's clusters
"""

import json
import os
import re
import sys
from pathlib import Path

FOLDER = Path(os.environ["FAKE_FOLDER"])


def main() -> int:
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    call = " ".join([program, *arguments])
    comes_in = sys.stdin.read() if arguments[-2:] == ["-f", "-"] else ""
    config = arguments[arguments.index("--config") + 1] if "--config" in arguments else None
    if config:
        comes_in = Path(config).read_text()
    with (FOLDER / "calls").open("a") as file:
        file.write(json.dumps([call, comes_in]) + "\n")
    failures = json.loads((FOLDER / "fail").read_text())
    for pattern, (code, text, times) in failures.items():
        if re.search(pattern, call) and times:
            failures[pattern][2] -= 1
            (FOLDER / "fail").write_text(json.dumps(failures))
            print(text, file=sys.stderr)
            return int(code)
    for pattern, text in json.loads((FOLDER / "answers").read_text()).items():
        if re.search(pattern, call):
            print(text)
            return 0
    return act(program, arguments, call)


def act(program: str, arguments: list[str], call: str) -> int:
    clusters = FOLDER / "clusters"
    names = clusters.read_text().split()
    if call == "kind get clusters":
        print("\n".join(names))
    elif call == "kind version":
        print("kind v0.33.0 go1.25.1 linux/amd64")
    elif call.startswith("kind create cluster"):
        clusters.write_text("\n".join([*names, arguments[arguments.index("--name") + 1]]))
    elif call.startswith("kind delete cluster"):
        gone = arguments[arguments.index("--name") + 1]
        clusters.write_text("\n".join(name for name in names if name != gone))
    elif call.startswith("docker info"):
        print(json.dumps({"MemTotal": 16_000_000_000, "NCPU": 8, "DockerRootDir": "/nowhere"}))
    elif call.startswith("kubectl kustomize"):
        folder = Path(arguments[1])
        for file in sorted(folder.glob("*.yaml")):
            if file.name != "kustomization.yaml":
                print("---\n" + file.read_text())
    elif "get deployment ml-pipeline" in call:
        return 1
    elif "port-forward" in call:
        serve(int(arguments[-1].partition(":")[0]))
    return 0


def serve(port: int) -> None:
    import http.server  # here: the programs are started a thousand times

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *values: object) -> None:
            pass

    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    sys.exit(main())
