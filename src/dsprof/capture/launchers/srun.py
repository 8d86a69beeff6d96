"""srun: the tasks are no descendants of it, so nsys must stand behind it, one for each task."""

from __future__ import annotations

from dsprof.capture.launchers._launcher import Form, Launcher, Ranks
from dsprof.capture.launchers._words import Options

_OPTIONS = Options(
    values="-A -B -C -c -d -D -e -G -i -J -L -M -m -n -N -o -p -q -r -S -T -t -w -W -x "
    "--account --acctg-freq --bb --bbf --begin --chdir --cluster-constraint --clusters --comment --constraint "
    "--container --container-id --core-spec --cores-per-socket --cpu-bind --cpu-freq --cpus-per-gpu --cpus-per-task "
    "--deadline --delay-boot --dependency --distribution --epilog --error --exclude --export --export-file --extra "
    "--extra-node-info --gid --gpu-bind --gpu-freq --gpus --gpus-per-node --gpus-per-socket --gpus-per-task --gres "
    "--gres-flags --hint --het-group --input --job-name --jobid --licenses --mail-type --mail-user --mem --mem-bind "
    "--mem-per-cpu --mem-per-gpu --mcs-label --mpi --network --nodefile --nodelist --nodes --ntasks "
    "--ntasks-per-core --ntasks-per-gpu --ntasks-per-node --ntasks-per-socket --ntasks-per-tres --open-mode --output "
    "--partition --power --prefer --priority --profile --prolog --qos --relative --reservation --signal "
    "--slurmd-debug --sockets-per-node --switches --task-epilog --task-prolog --thread-spec --threads "
    "--threads-per-core --time --time-min --tmp --tres-bind --tres-per-task --uid --wait --wckey "
    "--container-image --container-mounts --container-workdir --container-name --container-env --container-save",
    flags="-E -H -I -k -K -l -O -Q -s -u -v -X -Z --contiguous --disable-status --exact --exclusive --hold --immediate "
    "--kill-on-bad-exit --label --no-allocate --no-kill --overcommit --overlap --oversubscribe --preserve-env "
    "--propagate --pty --quiet --quit-on-interrupt --reboot --resv-ports --spread-job --stepmgr --test-only "
    "--unbuffered --use-min-nodes --verbose --nice --bcast --send-libs --compress --interactive "
    "--container-mount-home --no-container-mount-home --container-writable --container-readonly "
    "--container-remap-root --no-container-remap-root --container-entrypoint --no-container-entrypoint",
)

LAUNCHER = Launcher(
    "srun",
    (
        Form(
            calls=("srun",),
            role="ranks",
            says="srun",
            ranks=Ranks(
                options=_OPTIONS,
                variables=(("SLURM_PROCID", "SLURM_NTASKS"),),
                outside="must",
                refused=r"(^| )(--multi-prog|:)( |$)",
            ),
        ),
    ),
)
