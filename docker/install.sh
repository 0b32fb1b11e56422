#!/bin/sh
# Installs hashed requirements into /opt/venv and writes the list of what is there; run while an
# image is built: install.sh NAME [FILE]
set -eu
name=$1
file=/requirements/${2:-$1}.txt
/tools/bin/uv venv --quiet --python "$(command -v python3)" /opt/venv
VIRTUAL_ENV=/opt/venv /tools/bin/uv pip sync --quiet --require-hashes --no-cache \
    --link-mode copy "$file"
mkdir -p /sbom
/tools/bin/cyclonedx-py environment --output-reproducible --of JSON -o "/sbom/$name.cdx.json" \
    /opt/venv >/dev/null

# What nothing at run time reads: tests and headers (a third of a gigabyte beside TensorFlow),
# Arrow's part for remote calls, and OpenVINO's for Intel's GPUs and NPUs.
cd /opt/venv/lib/python3.*/site-packages
find . -type d \( -name tests -o -name include \) \
    \( -path './numpy/*' -o -path './scipy/*' -o -path './pandas/*' -o -path './pyarrow/*' \
    -o -path './matplotlib/*' -o -path './sklearn/*' -o -path './tensorflow/include' \
    -o -path './openvino/*' \) \
    -prune -exec rm -rf {} +
rm -f pyarrow/libarrow_flight.* pyarrow/libarrow_python_flight.* pyarrow/_flight.*
rm -f openvino/libs/libopenvino_intel_[gn]pu_plugin.so openvino/libs/cache.json
# OpenVINO and NNCF do without what reports their use to Google Analytics.
rm -rf openvino_telemetry
# With bytecode, since containers with a read-only root could not keep it. Some packages carry
# templates that are no Python.
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash . >/dev/null 2>&1 || true
# Still whole, as far as an import can tell?
for package in numpy pandas pyarrow.parquet scipy.fft sklearn matplotlib.figure tensorflow openvino; do
    [ ! -d "${package%%.*}" ] || /opt/venv/bin/python3 -c "import $package"
done
