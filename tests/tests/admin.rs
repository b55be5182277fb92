//! The admin socket: what tools of others find there, and how honest the status is.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_tests::TestCluster;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const ADMIN: &str = "holdfast.admin.v1.Admin";

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
