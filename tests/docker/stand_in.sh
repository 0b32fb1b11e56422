#!/usr/bin/env bash
# Makes an image that stands in for python:3.11-slim-bookworm where no registry of images can be
# reached: the same Debian with its own Python 3.11, and this machine's certificates, so that pip
# works in a build. Prints its name. The engine keeps it; needs root and debootstrap.
set -euo pipefail
certificates=/etc/ssl/certs/ca-certificates.crt
# A new one when this file changes, or the certificates.
version=$(cat "$0" "$certificates" 2>/dev/null | sha256sum | cut -c1-12)
name=birdsong-stand-in/python:$version
if docker image inspect "$name" >/dev/null 2>&1; then
    echo "$name"
    exit
fi
mirror=$(sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb (\[[^]]*\] )?([^ ]+debian\/?) .*/\2/p' \
    /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
    grep -E '/debian/?$' | head -1) || true
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
    bookworm "$folder" "${mirror:?no mirror in the sources of apt}" >"$folder.log" 2>&1 ||
    { tail -5 "$folder.log" >&2; exit 1; }
rm -rf "$folder.log" "$folder"/var/cache/apt/* "$folder"/var/lib/apt/lists/*
[ ! -f "$certificates" ] || cp "$certificates" "$folder$certificates"
tar -C "$folder" -c . | docker import \
    --change "ENV SSL_CERT_FILE=$certificates" --change "ENV PIP_CERT=$certificates" \
    - "$name" >/dev/null
echo "$name"
