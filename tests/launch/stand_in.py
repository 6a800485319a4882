"""A gcloud that runs what it is told in folders, and fails on demand.

WORLD, a folder, holds all there is: `scenario` says what happens, each call is
added to `calls`, both as Python's literals; `bucket` is the bucket, `worker-N`
are the home directories of the workers of the TPU that is there. The scenario:

  tpus: what becomes of the first, second, ... TPU that is created:
    states: the answers when asked for its state; the last one stays
    failure: the message of a state FAILED
    train: what its training does; see `train` below
    then: the keys that change once worker 0 has trained for three steps
    vm: the state of the VM, by default READY
    unreachable: the numbers of workers that ssh does not reach
  create, delete, scp, rsync, buckets, describe: error lines, one for each call
    until none is left; None for a call that succeeds
  hierarchical: whether the bucket has folders, by default True

The same file is the `python` of the workers, which trains. It is run some
hundred times, and imports nothing that takes time.
"""

import os
import signal
import sys
import time

WORLD = os.environ.get('WORLD', '.')
WORKERS = (0, 1)


def read(path):
  with open(f'{WORLD}/{path}') as file:
    return eval(file.read())


def write(path, value):
  """Writes a file at once; others may be reading it."""
  temporary = f'{WORLD}/{path}.{os.getpid()}'
  with open(temporary, 'w') as file:
    file.write(repr(value))
  os.rename(temporary, f'{WORLD}/{path}')


def execute(*command):
  return os.spawnvp(os.P_WAIT, command[0], command)


def fail(line):
  sys.stderr.write(f'ERROR: (gcloud.stand.in) {line}\n')
  sys.exit(1)


def flag(arguments, name):
  values = [a.partition('=')[2] for a in arguments if a.startswith(f'{name}=')]
  return values[0] if values else ''


def verb_of(words):
  """What is done: create, describe, describe-vm, ssh, rsync, ..."""
  if words[0] == 'storage':
    return words[1]
  return 'describe-vm' if words[2:4] == ['tpu-vm', 'describe'] else words[3]


def step_of(worker):
  path = f'bucket/my-tpu/checkpoint-{worker}'
  return read(path) if os.path.exists(f'{WORLD}/{path}') else 0


def remove_workers():
  for n in WORKERS:
    session = f'worker-{n}/session'
    if os.path.exists(f'{WORLD}/{session}'):
      os.killpg(read(session), signal.SIGKILL)
    execute('rm', '-rf', f'{WORLD}/worker-{n}')


def ssh(tpu, arguments):
  if tpu.get('vm', 'READY') != 'READY':
    fail(f'the TPU is in state {tpu["vm"]}')
  chosen = flag(arguments, '--worker')
  status = 0
  os.environ['PATH'] = f'{WORLD}/worker_bin:{os.environ["PATH"]}'
  for n in WORKERS if chosen == 'all' else [int(chosen)]:
    if n in tpu.get('unreachable', ()):
      sys.stderr.write(f'ssh: connect to worker {n}: timed out\n')
      status = status or 255
      continue
    os.environ |= {'HOME': f'{WORLD}/worker-{n}', 'WORKER': str(n)}
    os.chdir(os.environ['HOME'])
    status = execute('bash', '-c', flag(arguments, '--command')) or status
  sys.exit(status)


def gcloud(arguments):
  with open(f'{WORLD}/calls', 'a') as calls:
    calls.write(f'{arguments!r}\n')
  words = [a for a in arguments if not a.startswith('-')]
  verb = verb_of(words)
  scenario = read('scenario')
  line = (scenario.get(verb) or [None]).pop(0)
  tpu = scenario['tpus'][0] if scenario.get('created') else None
  state = None
  if line is None and verb == 'create':
    scenario['created'] = True
  elif line is None and tpu and verb == 'delete':
    remove_workers()
    scenario['created'] = False
    scenario['tpus'].pop(0)
  elif line is None and tpu and verb == 'describe':
    state = tpu['states'].pop(0)
    tpu['states'] = tpu['states'] or [state]
  elif tpu and verb == 'ssh' and step_of(0) == 3:
    tpu |= tpu.get('then', {})
  write('scenario', scenario)
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
    if state == 'ACTIVE':
      execute('mkdir', '-p', *(f'{WORLD}/worker-{n}' for n in WORKERS))
    failure = f'{{"error": {{"message": "{tpu.get("failure", "")}"}}}}'
    print(f'{{"state": {{"state": "{state}", "failedData": {failure}}}}}')
  elif verb == 'describe-vm':
    print(tpu.get('vm', 'READY'))
  elif verb == 'buckets':
    print(scenario.get('hierarchical', True))
  elif verb == 'scp':
    for n in WORKERS:
      execute('cp', words[4], f'{WORLD}/worker-{n}')
  elif verb == 'ssh':
    ssh(tpu, arguments)
  elif verb == 'rsync':
    source = words[2].split('/', 3)[3]
    execute('cp', '-r', f'{WORLD}/bucket/{source}/.', words[3])


def train(arguments):
  """Five steps of training, a checkpoint after each.

  well: to the end. error: until it fails at the third step. vanish: until it is
  killed there, with its shell. interrupted: until SIGTERM ends it there. wait:
  stays there until there is a file `go`.
  """
  n = os.environ['WORKER']
  execute('mkdir', '-p', flag(arguments, '--workdir'))
  write(f'bucket/my-tpu/arguments-{n}', arguments)
  behaviour = read('scenario')['tpus'][0]['train']
  step = step_of(n)
  print(f'worker {n} begins at step {step}')
  while step < 5:
    step += 1
    write(f'bucket/my-tpu/checkpoint-{n}', step)
    print(f'step {step} ✓', flush=True)
    if step == 3 and behaviour == 'error':
      sys.exit('Traceback: it went wrong')
    if step == 3 and behaviour == 'vanish':
      os.kill(os.getppid(), signal.SIGKILL)
      sys.exit(1)
    if step == 3 and behaviour == 'interrupted':
      print('interrupted; the same command goes on from the last checkpoint')
      sys.exit(0)
    while (
      step == 3 and behaviour == 'wait' and not os.path.exists(f'{WORLD}/go')
    ):
      time.sleep(0.02)
  while min(map(step_of, WORKERS)) < 5:  # processes of JAX end together
    time.sleep(0.02)


if __name__ == '__main__':
  if 'train.py' in sys.argv:
    train(sys.argv[1:])
  else:
    gcloud(sys.argv[1:])
