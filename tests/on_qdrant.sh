#!/bin/sh
# Run the server tests against one Qdrant node, then against a cluster of three, in containers of their own:
#     tests/on_qdrant.sh .venv/bin/python
# The compose files are those of the documentation, without an API key and without volumes that outlive the run.
set -eu
python=$1
here=$(cd "$(dirname "$0")" && pwd)
docs=$here/../docs/qdrant
nodes=http://localhost:6333,http://localhost:6343,http://localhost:6353
export QDRANT_API_KEY=unused COMPOSE_PROJECT_NAME=ace-finetune-tests

up() {
    docker compose -f "$docs/$1" -f "$here/qdrant/$1" up -d --wait
    trap 'docker compose -f "$docs/$1" -f "$here/qdrant/$1" down --volumes' EXIT
    for url in $(echo "$2" | tr , ' '); do
        curl --silent --fail --retry 60 --retry-delay 1 --retry-all-errors "$url/readyz" > /dev/null
    done
}

down() {
    docker compose -f "$docs/$1" -f "$here/qdrant/$1" down --volumes
    trap - EXIT
}

# The tests read QDRANT_API_KEY too.
tests() {
    env -u QDRANT_API_KEY OMP_NUM_THREADS=1 "$@"
}

up compose.yaml http://localhost:6333
tests ACE_FINETUNE_QDRANT_URL=http://localhost:6333 "$python" -m pytest "$here/stores" "$here/retrievers" \
    "$here/mining/test_live_collection.py" "$here/cli/test_server_verbs.py"
down compose.yaml

up cluster.yaml "$nodes"
tests ACE_FINETUNE_QDRANT_URL=http://localhost:6333 ACE_FINETUNE_QDRANT_CLUSTER="$nodes" \
    "$python" -m pytest "$here/stores" -k "server or cluster"
down cluster.yaml
