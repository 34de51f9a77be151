#!/bin/sh
# Removes from an environment what no service reads. Not here: anything that a feature needs.
set -eu
cd "$1"/lib/python3*/site-packages
find . -depth -type d -name tests -exec rm -rf {} +
# For compilers, for debuggers of the pages in a browser, and static libraries.
find . -type f '(' -name '*.h' -o -name '*.hpp' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \
  -o -path '*/build/*.map' ')' -delete
# Arrow's network protocol, second copies of its libraries, and Kubernetes' client for asyncio.
rm -rf pyarrow/include pyarrow/*flight* pyarrow/libarrow*.so pyarrow/libarrow*.so.*.*.* \
  kubernetes/aio
# Names of functions within libraries; others than these may have been laid out anew, which strip
# does not understand.
strip --strip-unneeded _polars_runtime_32/*.so pyarrow/*.so pyarrow/*.so.* obstore/*.so
