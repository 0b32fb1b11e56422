#!/usr/bin/env bash
# Writes the hashed requirements from pyproject.toml, one file for development and one for each
# image; with --check it only says which of them do not fit. UV names the uv to use.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=docker/requirements
out=$folder
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
    cp "$folder"/*.txt "$out"  # what is pinned stays as long as it fits
fi

# uv writes neither the addresses of registries nor its own options into a file.
compile() {
    "${UV:-uv}" pip compile --quiet --generate-hashes --no-emit-index-url --python-version 3.11 \
        --custom-compile-command "make lock" "$@"
}

# image NAME EXTRA...: with the versions that dev.txt has, and that the tests ran with.
image() {
    local name=$1 extras=()
    shift
    for extra in "$@"; do extras+=(--extra "$extra"); done
    compile pyproject.toml "${extras[@]}" -c "$folder/dev.txt" -o "$out/$name.txt" >/dev/null
}

# Of kfp a step needs what runs inside of it, which imports none of kfp's own requirements (100 MB).
with_kfp() {
    echo kfp | compile - --no-deps --no-header --no-annotate -c "$folder/dev.txt" >>"$out/$1.txt"
}

compile pyproject.toml --extra dev -o "$out/dev.txt" >/dev/null
compile --group image-tools -o "$out/image-tools.txt" >/dev/null
image data data
with_kfp data
image train data train cpu
with_kfp train
image train-gpu data train gpu
with_kfp train-gpu
image cloud data cloud serve
with_kfp cloud
image serve serve

if [ "$out" != "$folder" ] && ! diff -u "$folder" "$out" >&2; then
    echo "The requirements do not fit pyproject.toml; run: make lock" >&2
    exit 1
fi
