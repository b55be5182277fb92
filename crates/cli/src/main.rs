//! The holdfast binary.

fn main() -> std::process::ExitCode {
    holdfast_cli::main()
}
