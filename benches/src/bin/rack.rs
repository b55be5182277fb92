//! Every workload of the table on hosts that are reached by ssh: `scripts/rack-bench` calls it, here and there.

use std::process::ExitCode;

fn main() -> ExitCode {
    holdfast_benches::rack::main()
}
