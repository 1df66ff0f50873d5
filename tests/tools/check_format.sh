#!/usr/bin/env bash
# Fails when a C file is not as clang-format would write it. `check_format.sh --fix` writes it so.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

files() {
    git ls-files -z --cached --others --exclude-standard '*.c' '*.h' |
        while IFS= read -r -d '' file; do
            [ ! -f "$file" ] || printf '%s\0' "$file"
        done
}

format() { xargs -0 -r -n 16 -P "$(nproc)" clang-format --style=file "$@"; }

if [ "${1:-}" = --fix ]; then
    files | format -i
    exit
fi
if findings=$(files | format --dry-run --Werror 2>&1); then
    echo "format: as clang-format writes it"
    exit 0
fi
# one line a file: the rest is what --fix does by itself
grep -E '^[^ ].*: error: ' <<<"$findings" | sort -t: -k1,1 -u
echo "format: tests/tools/check_format.sh --fix writes these files as they should be"
exit 1
