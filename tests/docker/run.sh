#!/usr/bin/env bash
# Runs a command with a container engine and the images of this code: tests/docker/run.sh COMMAND.
# Starts an engine where none answers and this is root, and stops it afterwards. Where that cannot
# be, it says so in one line and ends with 0; with 1 under BIRDSONG_ENGINE=required; and runs the
# command all the same, whose tests of containers then skip, under BIRDSONG_ENGINE=optional.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHON=${PYTHON:-$PWD/.venv/bin/python}
official=python:3.11-slim-bookworm

command=("$@")

skip() {
    echo "SKIPPED: no test of containers is run: $*" >&2
    case "${BIRDSONG_ENGINE:-}" in
        required) exit 1 ;;
        optional) "${command[@]}"; exit ;;
        *) exit 0 ;;
    esac
}

# install PACKAGE...: Debian's, if we may; quiet as long as it works.
install() {
    local log
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    log=$(mktemp)
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "$@"; } >"$log" 2>&1 || { tail -5 "$log" >&2; return 1; }
}

if ! docker version >/dev/null 2>&1; then
    [ "$(id -u)" = 0 ] || skip "no engine answers, and only root can start one."
    if ! command -v dockerd >/dev/null || ! command -v iptables >/dev/null; then
        install docker.io iptables || skip "docker.io cannot be installed here."
    fi
    log=$(mktemp)
    # Places of its own, so that what a killed engine left in the usual ones is not in the way.
    dockerd --exec-root "$log.d" --pidfile "$log.pid" >"$log" 2>&1 &
    engine=$!
    trap 'kill "$engine" 2>/dev/null; wait "$engine" 2>/dev/null || true' EXIT
    for _ in $(seq 60); do
        docker version >/dev/null 2>&1 && break
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.5
    done
    docker version >/dev/null 2>&1 || { tail -5 "$log" >&2; skip "the engine does not start."; }
    echo "Started an engine for these tests."
fi

if ! docker image inspect "$official" >/dev/null 2>&1 &&
    ! timeout 120 docker pull --quiet "$official" >/dev/null 2>&1; then
    command -v debootstrap >/dev/null || install debootstrap ||
        skip "$official cannot be pulled, and debootstrap, which makes a stand-in, is missing."
    base=$(tests/docker/stand_in.sh) || skip "$official cannot be pulled, and no stand-in made."
    echo "$official cannot be pulled; $base stands in for it."
    # The stand-in has this machine's certificates, the network its registries.
    export BIRDSONG_BUILD_OPTIONS="--network host --build-arg BASE_IMAGE=$base"
    export BIRDSONG_BASE_IMAGE=$base
fi

log=$(mktemp)
echo "Building the images ($log)."
docker/build.sh >"$log" 2>&1 || { tail -40 "$log" >&2; exit 1; }
grep '^== .*:.*MB' "$log"
BIRDSONG_ENGINE_IS_THERE=1 "${command[@]}"
