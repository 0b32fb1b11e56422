"""`python -m sagemaker_server [--port 5556] [--made]`: serve until Ctrl-C."""

import argparse
import threading

from sagemaker_server.programs import MADE, TRAINING, Container, Process
from sagemaker_server.server import BUCKET, Server

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=5556)
parser.add_argument("--run", choices=("process", "docker", "made"), default="process")
given = parser.parse_args()
programs = {"process": Process(TRAINING), "docker": Container(), "made": Process(MADE)}
with Server(programs[given.run]).running(given.port) as server:
    print(f"AWS_ENDPOINT_URL={server.address}, bucket {BUCKET}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopped")
