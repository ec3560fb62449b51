#!/usr/bin/env bash
# Embeds a folder with GNU parallel on this machine or on several, then merges the shards.
#
#   examples/cluster/parallel.sh FOLDER OUTPUT SHARDS [HOSTS]
#
# HOSTS is a comma-separated list for `parallel --sshlogin` (":" is this machine); all of them must see the same
# folder and the same output directory, and have clip-cli on their path. Run it again after a failure: shards that are
# complete are left alone, unfinished ones go on where they stopped. CLIP_CLI_ARGS holds more arguments for `embed`.
set -euo pipefail
folder=$1 output=$2 shards=$3 hosts=${4:-:}
stem=${output%.*} ending=${output##*.}

one_shard() {
    local name
    name=$(printf '%s-%05d-of-%05d.%s' "$1" "$3" "$4" "$2")
    [ -e "$name" ] && return
    # Exit code 1 says that some items failed; they are in the output.
    clip-cli embed "$5" --shard "$3/$4" --output "$1.$2" --resume ${CLIP_CLI_ARGS:-} || [ $? -eq 1 ]
}
export -f one_shard
export CLIP_CLI_ARGS=${CLIP_CLI_ARGS:-}

jobs=$([ "$hosts" = : ] && echo 2 || echo 1)
seq "$shards" | parallel --sshlogin "$hosts" --jobs "$jobs" --env one_shard --env CLIP_CLI_ARGS --workdir "$PWD" --retries 3 \
    one_shard "$stem" "$ending" {} "$shards" "$folder"

clip-cli merge "$stem"-*-of-"$(printf %05d "$shards")"."$ending" --output "$output" || [ $? -eq 1 ]
