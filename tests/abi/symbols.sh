#!/bin/bash
# symbols.sh LIBRARY LIST: the library exports exactly what the list says, under its version.
set -e
found=$(nm -D --defined-only "$1" | awk '$2 ~ /^[TDBR]$/ {print $3}' | LC_ALL=C sort)
diff -u "$2" <(printf '%s\n' "$found")
echo "$(wc -l <"$2") symbols as listed"
