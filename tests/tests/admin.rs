//! The admin socket: what tools of others find there, and how honest the status is.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, binary};
use std::process::Command;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const ADMIN: &str = "holdfast.admin.v1.Admin";
const VOLUME: &str = "left";
const SIZE: u64 = 64 << 20;
/// The smallest journal that the configuration takes: 16 MiB.
const SMALL_JOURNAL: &str = "[limits]\njournal_segment = \"4MiB\"\njournal_max = \"16MiB\"\n";

/// What `grpcurl -unix SOCKET list`, `describe` and `grpc_health_probe` do.
#[tokio::test]
async fn a_grpc_client_finds_the_services_and_their_health() {
    let cluster = TestCluster::start().await;
    let uri = format!("unix://{}", cluster.nodes()[0].admin().display());
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) =
        reflect(&channel, MessageRequest::ListServices(String::new())).await
    else {
        panic!("expected a list of services");
    };
    let services: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    assert!(services.contains(&ADMIN) && services.contains(&"grpc.health.v1.Health"), "{services:?}");
    let described = reflect(&channel, MessageRequest::FileContainingSymbol(format!("{ADMIN}.VolumeCreate"))).await;
    assert!(matches!(described, Some(MessageResponse::FileDescriptorResponse(_))), "{described:?}");
    for service in ["", ADMIN] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service:?}");
    }
}

async fn reflect(channel: &Channel, question: MessageRequest) -> Option<MessageResponse> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    answers.into_inner().message().await.unwrap()?.message_response
}

#[tokio::test]
async fn a_copy_that_the_log_no_longer_reaches_is_called_so() {
    let mut cluster = TestCluster::start_with(SMALL_JOURNAL).await;
    cluster.volume(VOLUME, SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    let left = (primary + 1) % 3;
    let name = cluster.nodes()[left].name().to_owned();
    cluster.kill(left);
    // Until the ring of segments has been written several times over.
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 1)).unwrap();
    let written = cluster.wait_for("five journals full of writes", PATIENCE, async |_| match workload.progress() {
        p if p.bytes_written > 80 << 20 => Ok(()),
        p => Err(format!("{} bytes, {:?}", p.bytes_written, p.failure)),
    });
    written.await.unwrap_or_else(|e| panic!("{e}"));
    cluster.launch(left).unwrap();
    let copy = |v: &pb::Volume| v.copies.iter().find(|c| c.node == name).cloned().unwrap();
    let found = cluster.wait_for("the status to call the copy lost", PATIENCE, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        if copy(&volume).state == "needs_resync" { Ok(volume) } else { Err(format!("{:?}", copy(&volume))) }
    });
    let volume = found.await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(volume.state, "degraded");
    assert!(volume.r#unsafe.iter().any(|s| s.contains(&name) && s.contains("resync")), "{:?}", volume.r#unsafe);
    assert!(copy(&volume).lag_lsn.unwrap() > 0);
    let socket = cluster.nodes()[primary].admin().display().to_string();
    let run = |args: &[&str]| Command::new(binary()).args(args).args(["--socket", &socket]).output().unwrap();
    let json = String::from_utf8(run(&["status", "--output", "json"]).stdout).unwrap();
    assert!(json.contains("needs_resync") && json.contains("degraded"), "{json}");
    let events = String::from_utf8(run(&["events", "--volume", VOLUME]).stdout).unwrap();
    assert!(events.contains("replace that copy"), "{events}");
    let refused = run(&["failover", VOLUME, "--to", &name]);
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(run(&["status"]).status.success());
    let progress = workload.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
}
