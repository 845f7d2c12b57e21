#!/bin/sh
# One training on several machines: run the same line on each of them, within ten minutes.
#
#   HEAD=node1:29500 sh examples/two_nodes.sh data=/shared/photos out=/shared/runs/big
#
# HEAD   name of one of the machines and a free port on it; there they meet
# NODES  machines (2)
# RANKS  processes on each, one for each GPU (what nvidia-smi counts, else 1)
# RUN    a name, the same on each, where several trainings meet at one HEAD (deitkit)
# TRIES  times that all begin again from the last checkpoint after a rank was lost (3)
#
# out= and data= are on a disk that all machines see. With InfiniBand or several networks, name the
# one to use: NCCL_SOCKET_IFNAME=ib0 (GPUs) or GLOO_SOCKET_IFNAME=eth0 (processors).
set -eu
: "${HEAD:?set HEAD=host:port, one of the machines}"
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c . || true)
[ "$gpus" -gt 0 ] || gpus=1
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NODES:-2}" \
    --nproc-per-node="${RANKS:-$gpus}" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$HEAD" \
    --rdzv-id="${RUN:-deitkit}" \
    --max-restarts="${TRIES:-3}" \
    -m deitkit train "$@"
