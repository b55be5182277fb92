//! Stands before every service of the admin socket: who may do nothing is refused, who may look is refused everything but
//! looking, and what is more than a look is in the audit log before it is done.
//!
//! Looking is a list ([`LOOKS`]); everything else changes something, so that a call nobody thought of here is an operator's and is
//! in the log. Its arguments are told by the descriptors of the API, for the same reason.

use crate::admin::DESCRIPTOR_SET;
use crate::audit::{Audit, Entry};
use crate::peer::{Peer, Role, user_name};
use crate::random;
use crate::refusals::Refusals;
use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

/// Calls of the API that change nothing.
const LOOKS: [&str; 9] = [
    "Status",
    "NodeList",
    "VolumeList",
    "VolumeShow",
    "Events",
    "Counters",
    "RecoveryPlan",
    "OrphanList",
    "OrphanShow",
];
/// The API; other services on the socket (health, reflection) only look.
const API: &str = "/holdfast.admin.v1.Admin/";
/// Longest request that changes something; of one that is refused no more is read than is told of it.
const REQUEST_BYTES: usize = 1 << 20;
const REFUSED_BYTES: usize = 4 << 10;

/// A service behind the guard.
#[derive(Clone, Debug)]
pub(crate) struct Guard<S> {
    service: S,
    audit: Audit,
    refusals: Refusals,
}

impl<S> Guard<S> {
    pub(crate) fn new(service: S, audit: Audit, refusals: Refusals) -> Guard<S> {
        Guard { service, audit, refusals }
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The one that is ready is used, the clone waits for the next call.
        let next = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, next);
        let (audit, refusals) = (self.audit.clone(), self.refusals.clone());
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().copied();
            let peer = peer.unwrap_or(Peer { uid: u32::MAX, pid: None, role: Role::Stranger });
            if peer.role == Role::Stranger {
                let called = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
                refusals.call(peer, called, json!({}), "the user is in no group that may ask").await;
                return Ok(refused(
                    "expected a user in [listen] admin_group or viewer_group, root, or the agent's own user",
                ));
            }
            let Some(method) = changes(request.uri().path()) else { return service.call(request).await };
            let (head, body) = request.into_parts();
            if peer.role != Role::Operator {
                let body = Limited::new(body, REFUSED_BYTES).collect().await;
                let long = || json!({ "bytes": format!("more than {REFUSED_BYTES}") });
                let arguments = body.map_or_else(|_| long(), |body| arguments(&method, &body.to_bytes()));
                refusals.call(peer, method, arguments, "the user may only look").await;
                return Ok(refused("expected a user in [listen] admin_group, found one that may only look"));
            }
            let Ok(body) = Limited::new(body, REQUEST_BYTES).collect().await else {
                return Ok(Status::invalid_argument("expected a whole request of at most 1 MiB").into_http());
            };
            let body = body.to_bytes();
            let entry = Entry {
                id: random::id(),
                uid: peer.uid,
                user: user_name(peer.uid),
                pid: peer.pid,
                arguments: arguments(&method, &body),
                command: method,
            };
            audit.write(&entry, "asked").await;
            let answer = service.call(http::Request::from_parts(head, Body::new(Full::new(body)))).await?;
            audit.write(&entry, &outcome(&answer)).await;
            Ok(answer)
        })
    }
}

fn refused(why: &str) -> http::Response<Body> {
    Status::permission_denied(format!("{why}; ask an administrator for the group")).into_http()
}

/// The call, if it may change something.
fn changes(path: &str) -> Option<String> {
    let method = path.strip_prefix(API)?;
    (!LOOKS.contains(&method)).then(|| method.to_owned())
}

/// A call that failed has its status in the head.
fn outcome(answer: &http::Response<Body>) -> String {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.code() != Code::Ok => format!("{:?}: {}", status.code(), status.message()),
        _ => "done".to_owned(),
    }
}

static DESCRIPTORS: LazyLock<FileDescriptorSet> =
    LazyLock::new(|| FileDescriptorSet::decode(DESCRIPTOR_SET).expect("the descriptor set was built with this binary"));

/// What a call was asked, by the names of the API. What can't be read is told as it came.
fn arguments(method: &str, framed: &Bytes) -> Value {
    // One byte that says whether it is compressed, four for the length.
    let message = framed.get(5..).filter(|_| framed.first() == Some(&0));
    let described = request_of(method).zip(message);
    described.and_then(|(kind, message)| fields(kind, message)).unwrap_or_else(|| json!({ "bytes": framed.len() }))
}

fn request_of(method: &str) -> Option<&'static DescriptorProto> {
    let files = DESCRIPTORS.file.iter();
    let methods = files.clone().flat_map(|f| &f.service).filter(|s| s.name() == "Admin").flat_map(|s| &s.method);
    let input = methods.into_iter().find(|m| m.name() == method)?.input_type().rsplit('.').next()?;
    files.flat_map(|f| &f.message_type).find(|m| m.name() == input)
}

fn fields(kind: &DescriptorProto, mut bytes: &[u8]) -> Option<Value> {
    let mut found: Map<String, Value> = Map::new();
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).ok()?;
        let field = kind.field.iter().find(|f| f.number().cast_unsigned() == number)?;
        let value = match wire {
            WireType::Varint => {
                let number = decode_varint(&mut bytes).ok()?;
                if field.r#type() == Type::Bool { json!(number != 0) } else { json!(number) }
            }
            WireType::LengthDelimited if field.r#type() == Type::String => {
                let len = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                let text = std::str::from_utf8(bytes.get(..len)?).ok()?;
                bytes.advance(len);
                json!(text)
            }
            _ => return None,
        };
        // Of a repeated field there are several.
        match found.get_mut(field.name()) {
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = json!([first.clone(), value]),
            None => drop(found.insert(field.name().to_owned(), value)),
        }
    }
    Some(Value::Object(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::pb;

    fn framed(message: &impl Message) -> Bytes {
        let body = message.encode_to_vec();
        let len = u32::try_from(body.len()).expect("it is short").to_be_bytes();
        [&[0][..], &len, &body].concat().into()
    }

    #[test]
    fn everything_but_looking_changes_something() {
        for look in LOOKS {
            assert_eq!(changes(&format!("{API}{look}")), None);
            assert!(request_of(look).is_some(), "{look} is a call of the API");
        }
        assert_eq!(changes(&format!("{API}VolumeDelete")).as_deref(), Some("VolumeDelete"));
        assert_eq!(changes(&format!("{API}WhatNobodyThoughtOf")).as_deref(), Some("WhatNobodyThoughtOf"));
        assert_eq!(changes("/grpc.health.v1.Health/Check"), None);
    }

    #[test]
    fn arguments_have_the_names_of_the_api() {
        let create = pb::VolumeCreateRequest {
            name: "vm1".to_owned(),
            size_bytes: 1 << 30,
            on: vec!["n1".to_owned(), "n2".to_owned()],
            ..Default::default()
        };
        let expected = json!({ "name": "vm1", "size_bytes": 1 << 30, "on": ["n1", "n2"] });
        assert_eq!(arguments("VolumeCreate", &framed(&create)), expected);
        let delete = pb::VolumeDeleteRequest { name: "vm1".to_owned(), force: true };
        assert_eq!(arguments("VolumeDelete", &framed(&delete)), json!({ "name": "vm1", "force": true }));
    }

    #[test]
    fn garbage_is_told_by_its_length() {
        for bytes in [&[][..], &[0], &[1, 0, 0, 0, 1, 8], &[0, 0, 0, 0, 9, 0xff, 0xff], &[0, 0, 0, 0, 2, 10, 200]] {
            let bytes = Bytes::copy_from_slice(bytes);
            let told = arguments("VolumeDelete", &bytes);
            assert!(told == json!({}) || told == json!({ "bytes": bytes.len() }), "{told}");
        }
        assert_eq!(arguments("NoSuchCall", &framed(&pb::VolumeDeleteRequest::default())), json!({ "bytes": 5 }));
    }
}
