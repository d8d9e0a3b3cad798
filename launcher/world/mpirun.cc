#include "launcher/world/mpirun.h"

#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/rank/parent_process.h"

namespace tandem::launcher {
namespace {

bool StartsWith(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

}  // namespace

std::vector<std::string> MpirunCommand(const std::string& mpirun, bool root, int ranks,
                                       const std::vector<rank::HostSlots>& hosts,
                                       const std::vector<std::string>& exported,
                                       const std::vector<std::string>& program,
                                       const rank::GetEnv& get_env) {
  std::vector<std::string> argv = {mpirun, "-np", absl::StrCat(ranks)};
  if (root) argv.push_back("--allow-run-as-root");
  if (!hosts.empty())
    argv.insert(argv.end(), {"--host", rank::FormatHosts(hosts), "--map-by", "slot"});
  // A batch system counts tasks and a host its cores; the user may ask for more ranks than either.
  argv.push_back("--oversubscribe");
  argv.insert(argv.end(), {"--bind-to", "none"});
  // Containers forbid process_vm_readv; with the default every rank would then print a warning.
  argv.insert(argv.end(), {"--mca", "btl_vader_single_copy_mechanism", "none"});
  argv.insert(argv.end(), {"--mca", "orte_base_help_aggregate", "0"});
  // The loss of a host's connection must be noticed within seconds; the default is minutes.
  argv.insert(argv.end(), {"--mca", "oob_tcp_keepalive_time", "2"});
  argv.insert(argv.end(), {"--mca", "oob_tcp_keepalive_intvl", "1"});
  argv.insert(argv.end(), {"--mca", "oob_tcp_keepalive_probes", "3"});
  bool own_way = false;  // the user says how to reach other hosts
  for (const char* name : {"OMPI_MCA_plm_rsh_args", "OMPI_MCA_plm_rsh_agent",
                           "OMPI_MCA_orte_rsh_agent", "OMPI_MCA_pls_rsh_agent"}) {
    own_way = own_way || get_env(name) != nullptr;
  }
  if (!hosts.empty() && !own_way) {
    // ssh would wait for the answer to a question without a limit, and minutes for a dead host.
    argv.insert(argv.end(), {"--mca", "plm_rsh_args", "-o BatchMode=yes -o ConnectTimeout=10"});
  }
  for (const std::string& name : exported) argv.insert(argv.end(), {"-x", name});
  argv.insert(argv.end(), program.begin(), program.end());
  return argv;
}

std::vector<std::string> ExportedVariables(const char* const* environment) {
  std::vector<std::string> names = {rank::kParentVariable, rank::kRestartsVariable,
                                    rank::kDataStoreVariable};
  for (; *environment != nullptr; ++environment) {
    const std::string name(*environment, std::strcspn(*environment, "="));
    const bool wanted = StartsWith(name, "TANDEM_") || StartsWith(name, "NCCL_") ||
                        StartsWith(name, "CUDA_") || name == "HF_HOME" || name == "HF_HUB_CACHE" ||
                        name == "XDG_CACHE_HOME" || name == "LD_LIBRARY_PATH";
    if (wanted && name != rank::kParentVariable && name != rank::kRestartsVariable)
      names.push_back(name);
  }
  return names;
}

absl::StatusOr<std::string> FindProgram(const std::string& name, const rank::GetEnv& get_env) {
  if (name.find('/') != std::string::npos) {
    if (access(name.c_str(), X_OK) == 0) return name;
  } else {
    const char* path = get_env("PATH");
    for (const auto folder : absl::StrSplit(path == nullptr ? "/usr/bin:/bin" : path, ':')) {
      const std::string candidate = absl::StrCat(folder.empty() ? "." : folder, "/", name);
      if (access(candidate.c_str(), X_OK) == 0) return candidate;
    }
  }
  return absl::UnavailableError(
      absl::StrCat(name, " is not there: ranks are started with Open MPI (Debian: openmpi-bin)"));
}

}  // namespace tandem::launcher
