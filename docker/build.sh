#!/usr/bin/env bash
# Builds the images, named as pipelines expect them, and a list of what is in each (CycloneDX).
#
#   docker/build.sh [data|train|cloud|serve]...     all of them without a word
#
# PYTHON                    an interpreter, 3.11; nothing needs to be installed in it
# BIRDSONG_BUILD_OPTIONS    further options of docker build, such as --build-arg BASE_IMAGE=...
# BIRDSONG_ACCELERATOR=gpu  train with CUDA's libraries
# BIRDSONG_REGISTRY, ...    see components/images.py
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
sboms=build/sbom
command -v docker >/dev/null || { echo "docker is missing: https://docs.docker.com/engine/install" >&2; exit 1; }
docker version >/dev/null || exit 1  # says why: no engine, or no permission
mkdir -p "$sboms"

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || revision=$revision-dirty
source=$(git remote get-url origin 2>/dev/null || true)
case "$source" in https://*@*|/*|file:*|"") source=unknown ;; esac  # no secret, no local path
version=$("$python" -c 'import birdsong; print(birdsong.__version__)')

for target in ${*:-data train cloud serve}; do
    name=$("$python" -c 'import sys; from components import images; print(images.reference(sys.argv[1]))' "$target")
    fingerprint=$("$python" -c 'import sys; from birdsong import image_code; print(image_code.fingerprint(sys.argv[1]))' "$target")
    began=$SECONDS
    echo "== $name"
    common=(-f docker/Dockerfile --build-arg "ACCELERATOR=${BIRDSONG_ACCELERATOR:-cpu}")
    # shellcheck disable=SC2206  # several words are meant
    build=(docker build ${BIRDSONG_BUILD_OPTIONS:-} "${common[@]}" --build-arg "FINGERPRINT=$fingerprint"
        --build-arg "SOURCE=$source" --build-arg "REVISION=$revision" --build-arg "VERSION=$version")
    "${build[@]}" --target "$target" --tag "$name" .
    found=$(docker run --rm --network none "$name" cat /opt/birdsong/fingerprint)
    if [ "$found" != "$fingerprint" ]; then
        docker rmi "$name" >/dev/null
        echo "Files of $target changed while its image was built. Build again." >&2
        exit 1
    fi
    # SageMaker's are the same layers with another user.
    case "$target" in train | serve) "${build[@]}" --target "$target-sagemaker" --tag "$name-sagemaker" . ;; esac
    # From the stage that installed it: the list is not part of the image.
    # shellcheck disable=SC2086
    stage=$(docker build -q ${BIRDSONG_BUILD_OPTIONS:-} "${common[@]}" --target "$target-packages" .)
    container=$(docker create "$stage" true)
    docker cp "$container:/sbom/$target.cdx.json" "$sboms/$target.cdx.json" >/dev/null
    docker rm "$container" >/dev/null
    bytes=$(docker image inspect --format '{{.Size}}' "$name")
    echo "== $name: $((bytes / 1000000)) MB, in $((SECONDS - began)) s; $sboms/$target.cdx.json"
done
