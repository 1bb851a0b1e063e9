#!/bin/sh
# One user trains the flights fleet, code and data are deleted, another reproduces it from the store: sh bench/two_users.sh
# Needs root, to be two other users; both can read this environment's Python. The second one's package cache is empty.
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
chmod 755 "$place"
mkdir "$place/shared" "$place/one" "$place/two"
git clone -q "$project" "$place/one/clone"
(cd "$place/one/clone/examples/flights" && "$project/.venv/bin/python" -c \
  'from pathlib import Path; from flights import write_flights; write_flights(Path("data/flights.parquet"))')
settings="$place/one/clone/examples/flights/modelmill.toml"
printf 'shared = true\nstore = "%s/shared/store"\n' "$place" | cat - "$settings" > "$place/settings"
mv "$place/settings" "$settings"
chown -R 3001:3000 "$place/one" "$place/shared"
chown -R 3002:3000 "$place/two"
chmod 2770 "$place/shared"

as() { # USER FOLDER WORDS...
  user=$1 folder=$2
  shift 2
  (cd "$folder" && setpriv --reuid "$user" --regid 3000 --clear-groups env -i PATH=/usr/bin:/bin HOME="$folder" \
    SSL_CERT_FILE="${SSL_CERT_FILE:-}" UV_SYSTEM_CERTS=1 PYTHONDONTWRITEBYTECODE=1 "$project/.venv/bin/modelmill" "$@")
}

as 3001 "$place/one/clone/examples/flights" train airtime.py
rm -rf "$place/one"
as 3002 "$place/two" reproduce 1 --store "$place/shared/store"
as 3002 "$place/two" reproduce 1 --store "$place/shared/store" --json
rm -rf "$place"
