//! Compiles `proto/admin.proto` without protoc, and keeps the descriptor set for gRPC reflection.

use std::error::Error;
use std::path::{Path, PathBuf};
use tonic_prost_build::Config;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let file = root.join("admin.proto");
    println!("cargo:rerun-if-changed={}", file.display());

    let descriptors = protox::compile([&file], [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("admin_descriptor.bin");
    std::fs::write(out, protox::prost::Message::encode_to_vec(&descriptors))?;
    let mut config = Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
