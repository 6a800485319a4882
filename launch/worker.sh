#!/usr/bin/env bash
# What launch/tpu_vm.py has every worker of a TPU slice do.
#
#   worker.sh install BUCKET     system packages, the bucket at ~/bucket, Python
#   worker.sh start RUN FLAG...  train.py in ~/bucket/RUN, under tmux
#   worker.sh report OFFSET      how it stands, and its log from a byte on
#   worker.sh alive              fails if the training is gone without a word
#   worker.sh last               how it stands, and the last lines of its log
#
# It leaves ~/train.log and, once the training has ended, ~/train.status.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "error: $*" >&2
  exit 1
}

# A fresh VM may still be updating itself, and holds apt's locks until it is done.
apt() {
  for _ in {1..30}; do
    sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -y "$@" && return
    sleep 10
  done
  fail "apt-get $* fails"
}

mount_bucket() {
  mkdir -p ~/bucket
  # Every worker has to see at once what another one wrote; by default gcsfuse
  # remembers what was there, on machines as large as these for ever.
  mountpoint -q ~/bucket || gcsfuse --metadata-cache-ttl-secs=0 \
    --metadata-cache-negative-ttl-secs=0 "$1" ~/bucket ||
    fail "cannot mount gs://$1; may the VM's service account read it?"
  # What a checkpoint needs: a folder that is renamed as a whole.
  local probe
  probe=~/bucket/.probe-$(hostname)
  mkdir "$probe" && touch "$probe/file" && mv -T "$probe" "$probe-renamed" &&
    rm -r "$probe-renamed" ||
    fail "cannot write, rename and delete in gs://$1; give the VM's service" \
      "account the role roles/storage.objectUser on it"
}

install() {
  local key=/usr/share/keyrings/cloud.google.asc
  local packages=https://packages.cloud.google.com/apt
  curl -fsSL "$packages/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $packages gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  apt update
  apt install gcsfuse tmux
  mount_bucket "$1"
  # The image's own Python is 3.10, too old; uv brings a newer one along.
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  [[ -x ~/venv/bin/python ]] || uv venv --quiet --python=3.12 ~/venv
  uv pip install --quiet --python ~/venv/bin/python -r requirements-tpu.txt
}

start() {
  if tmux has-session -t train 2>/dev/null; then
    fail 'a training runs here already; follow it, or delete the TPU'
  fi
  rm -f ~/train.status
  : >~/train.log
  # In a file, because tmux has a mind of its own about a `;` at an end.
  printf '%s\0' "$@" >~/train.arguments
  tmux new-session -d -s train bash launch/worker.sh train
}

train() {
  local arguments status=0
  mapfile -d '' -t arguments <~/train.arguments
  PYTHONUNBUFFERED=1 ~/venv/bin/python train.py --distributed \
    --workdir="$HOME/bucket/${arguments[0]}" "${arguments[@]:1}" \
    >>~/train.log 2>&1 || status=$?
  # SIGTERM, which a VM that is taken away sends, ends it well, but before its
  # end: without a status it counts as killed, and is begun again.
  ! tail -n 1 ~/train.log | grep -q '^interrupted; ' || return 0
  echo "$status" >~/train.status.new
  mv ~/train.status.new ~/train.status
}

stands() {
  # In this order: a training that has ended wrote its status before it left.
  local session=no
  if tmux has-session -t train 2>/dev/null; then session=yes; fi
  if [[ -f ~/train.status ]]; then
    echo "ended $(<~/train.status)"
  elif [[ $session == yes ]]; then
    echo running
  elif [[ -f ~/train.log ]]; then
    echo killed
  else
    echo idle
  fi
}

report() {
  stands
  if [[ -f ~/train.log ]]; then tail -c "+$(($1 + 1))" ~/train.log; fi
}

alive() {
  [[ $(stands) =~ ^(running|ended) ]] || fail "the training here is $(stands)"
}

last() {
  echo "$(hostname): $(stands)"
  tail -n 20 ~/train.log
}

"$@"
