"""A gcloud that runs what it is told in folders, and fails on demand.

WORLD, a folder, holds all there is: `scenario.json` says what happens, each
call is added to `calls.jsonl`, `bucket` is the bucket, and `worker-N` are the
home directories of the workers of the TPU that is there. The scenario:

  tpus: what becomes of the first, second, ... TPU that is created:
    states: the answers when asked for its state; the last one stays
    failure: the message of a state FAILED
    train: what its training does; see `train` below
    reports: after so many looks at worker 0, the keys of `then` replace these
    vm: the state of the VM, by default READY
    unreachable: the numbers of workers that ssh does not reach
  create, delete, scp, rsync, bucket, describe: error lines, one for each call
    until none is left; null for a call that succeeds

The same file is the `python` of the workers, which trains.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

WORLD = Path(os.environ.get('WORLD', '.'))
WORKERS = range(2)


def fail(line, status=1):
  sys.stderr.write(f'ERROR: (gcloud.stand.in) {line}\n')
  sys.exit(status)


def flag(arguments, name):
  values = [a.partition('=')[2] for a in arguments if a.startswith(f'{name}=')]
  return values[0] if values else ''


def homes():
  return [WORLD / f'worker-{n}' for n in WORKERS]


def remove_workers():
  for home in homes():
    if (home / 'session').exists():
      os.killpg(int((home / 'session').read_text()), signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


def ssh(tpu, arguments):
  if tpu.get('vm', 'READY') != 'READY':
    fail(f'the TPU is in state {tpu["vm"]}')
  chosen = flag(arguments, '--worker')
  command = flag(arguments, '--command')
  workers = WORKERS if chosen == 'all' else [int(chosen)]
  status = 0
  for n in workers:
    if n in tpu.get('unreachable', []):
      sys.stderr.write(f'ssh: connect to worker {n}: timed out\n')
      status = status or 255
      continue
    environment = os.environ | {
      'HOME': str(WORLD / f'worker-{n}'),
      'WORKER': str(n),
      'PATH': f'{WORLD}/worker_bin:{os.environ["PATH"]}',
    }
    # As gcloud does it: in pieces, which ssh joins for the remote shell.
    command = ' '.join(command.split(' '))
    done = subprocess.run(
      ['bash', '-c', command], env=environment, cwd=environment['HOME']
    )
    status = status or done.returncode
  sys.exit(status)


def gcloud(arguments):
  with (WORLD / 'calls.jsonl').open('a') as calls:
    calls.write(json.dumps(arguments) + '\n')
  path = WORLD / 'scenario.json'
  scenario = json.loads(path.read_text())
  words = [a for a in arguments if not a.startswith('-')]
  verb = 'bucket' if words[:2] == ['storage', 'buckets'] else words[-2]
  for name in ('queued-resources', 'tpu-vm', 'storage'):
    if name in words and verb != 'bucket':
      verb = words[words.index(name) + 1]
  if 'tpu-vm' in words and verb == 'describe':
    verb = 'describe-vm'
  line = (scenario.get(verb) or [None]).pop(0)
  tpu = scenario['tpus'][0] if scenario.get('created') else None
  if line is None and verb == 'create':
    scenario['created'] = True
  elif line is None and tpu and verb == 'delete':
    remove_workers()
    scenario['created'] = False
    scenario['tpus'].pop(0)
  elif line is None and tpu and verb == 'describe':
    state = tpu['states'].pop(0)
    tpu['states'] = tpu['states'] or [state]
  elif tpu and ' report ' in flag(arguments, '--command') and 'reports' in tpu:
    tpu['reports'] -= 1
    if tpu['reports'] < 0:
      tpu |= tpu['then']
  path.write_text(json.dumps(scenario))
  if line:
    fail(line)
  if tpu is None and verb in (
    'describe',
    'delete',
    'describe-vm',
    'scp',
    'ssh',
  ):
    fail('NOT_FOUND: no such resource.')
  if verb == 'describe':
    answer = {'state': state}
    if 'failure' in tpu:
      answer['failedData'] = {'error': {'message': tpu['failure']}}
    if state == 'ACTIVE':
      for home in homes():
        home.mkdir(exist_ok=True)
    print(json.dumps({'name': words[-1], 'state': answer}))
  elif verb == 'describe-vm':
    print(tpu.get('vm', 'READY'))
  elif verb == 'bucket':
    print(scenario.get('hierarchical', 'True'))
  elif verb == 'scp':
    for home in homes():
      shutil.copy(words[-2], home)
  elif verb == 'ssh':
    ssh(tpu, arguments)
  elif verb == 'rsync':
    source = WORLD / 'bucket' / words[-2].split('/', 3)[3]
    shutil.copytree(source, words[-1], dirs_exist_ok=True)


def train(arguments):
  """Five steps of training, a checkpoint after each.

  well: to the end. error: until it fails at the third step. vanish: until it is
  killed there, and all above it. wait: stays there until there is a file `go`.
  """
  n = os.environ['WORKER']
  workdir = Path(flag(arguments, '--workdir'))
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / f'arguments-{n}.json').write_text(json.dumps(arguments))
  checkpoint = workdir / f'checkpoint-{n}'
  step = int(checkpoint.read_text()) if checkpoint.exists() else 0
  behaviour = json.loads((WORLD / 'scenario.json').read_text())['tpus'][0]
  print(f'worker {n} begins at step {step}')
  while step < 5:
    step += 1
    checkpoint.write_text(str(step))
    print(f'step {step} ✓', flush=True)
    if step == 3 and behaviour['train'] == 'error':
      sys.exit('Traceback: it went wrong')
    if step == 3 and behaviour['train'] == 'vanish':
      os.kill(os.getppid(), signal.SIGKILL)
      sys.exit(1)
    while step == 3 and behaviour['train'] == 'wait':
      if (WORLD / 'go').exists():
        break
      time.sleep(0.02)


if __name__ == '__main__':
  if 'train.py' in sys.argv:
    train(sys.argv[1:])
  else:
    gcloud(sys.argv[1:])
