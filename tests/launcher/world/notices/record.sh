#!/bin/sh
# Records what mpirun writes to stderr when a world ends, for notice_filter_test. Needs Open MPI with
# mpicc and no host named nosuchhost; writes into openmpi-VERSION beside this script. The name of
# this host is replaced by node1. Which notices mpirun prints for MPI_Abort differs from time to
# time: it is recorded until both forms were seen.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=$here/openmpi-$(mpirun --version | sed -n 's/^mpirun (Open MPI) //p')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
cd "$work" || exit 1
cat > rank.c <<'C'
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Barrier(MPI_COMM_WORLD);
  if (rank == 1) {
    if (!strcmp(argv[1], "sigkill")) raise(SIGKILL);
    if (!strcmp(argv[1], "sigsegv")) raise(SIGSEGV);
    if (!strcmp(argv[1], "exit")) _exit(70);
    if (!strcmp(argv[1], "abort")) MPI_Abort(MPI_COMM_WORLD, 70);
  }
  sleep(30);
  MPI_Finalize();
  return 0;
}
C
mpicc rank.c -o rank || exit 1

# The options of launcher/world/mpirun.cc that change what is printed.
root=
[ "$(id -u)" = 0 ] && root=--allow-run-as-root
world="mpirun $root --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none \
  --mca orte_base_help_aggregate 0"

keep() { sed "s/\b$(hostname)\b/node1/g" stderr > "$out/$1.txt"; }

for end in sigkill sigsegv exit; do
  $world -np 2 ./rank $end 2> stderr < /dev/null
  keep rank_$end
done
for try in 1 2 3 4 5 6 7 8 9; do
  $world -np 2 ./rank abort 2> stderr < /dev/null
  if grep -q 'MPI_ABORT was invoked' stderr; then keep rank_abort; else keep rank_abort_unsent; fi
  [ -e "$out/rank_abort.txt" ] && [ -e "$out/rank_abort_unsent.txt" ] && break
done
for signal in TERM USR1; do
  $world -np 2 ./rank wait 2> stderr < /dev/null &
  mpirun=$!
  sleep 3
  kill -$signal $mpirun
  wait $mpirun
  keep mpirun_sig$(echo $signal | tr A-Z a-z)
done
$world -np 1 --host nosuchhost ./rank wait 2> stderr < /dev/null
keep unknown_host
mpirun $root -np 200 ./rank wait 2> stderr < /dev/null
keep no_slots
$world -np 2 "$work/nosuchprogram" 2> stderr < /dev/null
sed -i "s|$work/|/|" stderr
keep unknown_program
