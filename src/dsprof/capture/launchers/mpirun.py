"""mpirun and mpiexec of Open MPI, MPICH and Intel MPI: nsys stands behind them, one for each rank."""

from __future__ import annotations

from dsprof.capture.launchers._launcher import Form, Launcher, Ranks
from dsprof.capture.launchers._words import Options

_OPTIONS = Options(
    values="-n -np -c -H -host -hosts -hostfile -machinefile -machine -f -x -wd -wdir -path -map-by -bind-to "
    "-rank-by -N -npernode -npersocket -ppn -perhost -prefix -output-filename -output -timeout -report-uri "
    "-am -tune -launcher -launcher-exec -rmk -iface -genvlist -envlist -rankfile -rf -slot-list -stdin "
    "-personality -cpu-set -cpu-list -max-restarts -outfile-pattern -errfile-pattern -display "
    "-runtime-options -soft -arch -configfile",
    pairs="-mca -gmca -omca -prtemca -pmixmca -genv -env",
    flags="-q -quiet -v -verbose -allow-run-as-root -oversubscribe -nooversubscribe -use-hwthread-cpus "
    "-report-bindings -display-map -display-allocation -display-devel-map -tag-output -timestamp-output "
    "-merge-stderr-to-stdout -do-not-launch -pernode -bynode -byslot -bycore -by-node -by-slot -bind-to-core "
    "-bind-to-none -bind-to-socket -novm -enable-recovery -disable-recovery -get-stack-traces -continuous "
    "-nolocal -genvall -genvnone -envall -envnone -l -prepend-rank -print-all-exitcodes -print-rank-map -info "
    "-forward-signals",
    any_dashes=True,
)

LAUNCHER = Launcher(
    "mpirun",
    (
        Form(
            calls=("mpirun", "mpiexec", "mpiexec.hydra", "mpiexec.openmpi", "mpirun.openmpi", "mpirun.mpich",
                   "mpiexec.mpich", "prterun", "orterun"),
            role="ranks",
            says="mpirun",
            ranks=Ranks(
                options=_OPTIONS,
                variables=(
                    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
                    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
                    ("PMI_RANK", "PMI_SIZE"),
                    ("PMIX_RANK", "PMIX_SIZE"),
                ),
                outside="usually",
                refused=r"(^| )(:|--?configfile|--?app)( |$)",
            ),
        ),
    ),
)  # fmt: skip
