#!/bin/sh
# Ask the oracle from a shell: the command's status on one line each.  (sh client.sh [SEVREF...])
"${@:-sevref}" serve --stdio <<'REQUESTS' | sed -n 's/.*"status": "\([A-Z_]*\)".*/\1/p'
{"op": "create", "seed": "00"}
{"op": "cmd", "cmd": "DF_FLUSH"}
{"op": "cmd", "cmd": "INIT", "cmdbuf_in": "0000000000000000000000000000000000000000"}
{"op": "cmd", "cmd": "DF_FLUSH"}
{"op": "wbinvd"}
{"op": "cmd", "cmd": "DF_FLUSH"}
REQUESTS
