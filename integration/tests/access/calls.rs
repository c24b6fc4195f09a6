//! Calls any method by its name, with a request that names what does not exist, and tells what the layer said.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::stream;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet, MethodDescriptorProto};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Longer than any answer takes to begin.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a caller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// It got through to the handler, whatever that said.
    Through,
    /// PERMISSION_DENIED.
    Denied,
    /// UNAUTHENTICATED, or no handshake.
    Nobody,
}

impl Told {
    pub(crate) fn of(letter: char) -> Self {
        match letter {
            '+' => Self::Through,
            '-' => Self::Denied,
            '?' => Self::Nobody,
            other => panic!("no cell: {other}"),
        }
    }
}

/// Every method that a listener has, by its name.
pub(crate) struct Contract {
    pub(crate) methods: BTreeMap<String, MethodDescriptorProto>,
    messages: BTreeMap<String, DescriptorProto>,
}

impl Contract {
    pub(crate) fn load() -> Self {
        let (mut methods, mut messages) = (BTreeMap::new(), BTreeMap::new());
        for set in [
            skerry_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            for file in FileDescriptorSet::decode(set).expect("the build made it").file {
                for service in &file.service {
                    for method in &service.method {
                        let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                        methods.insert(name, method.clone());
                    }
                }
                for message in &file.message_type {
                    messages.insert(format!(".{}.{}", file.package(), message.name()), message.clone());
                }
            }
        }
        Self { methods, messages }
    }

    /// A request for `method` about something in `project` that cannot be there, so that nothing is changed by who gets through.
    fn request(&self, method: &str, project: &str) -> Vec<u8> {
        let message = &self.messages[self.methods[method].input_type()];
        let field = |number: i32, value: &[u8]| {
            let tag = u8::try_from(number << 3 | 2).expect("a small number");
            let length = u8::try_from(value.len()).expect("shorter than 128 bytes");
            [&[tag, length][..], value].concat()
        };
        let first = |value: &[u8]| field(1, value);
        let absent = format!("projects/{project}/things/absent");
        match message.field.iter().find(|field| field.number() == 1) {
            Some(field) if field.name() == "parent" => first(format!("projects/{project}").as_bytes()),
            Some(field) if field.r#type() == Type::String => first(absent.as_bytes()),
            // Of a call that streams the first request: in an app, or on a node.
            Some(start) if start.name() == "start" => {
                let names = self.messages[start.type_name()].field.iter();
                let names = names.filter(|one| ["app", "node"].contains(&one.name()));
                let named: Vec<_> = names.map(|one| field(one.number(), absent.as_bytes())).collect();
                first(&named.concat())
            }
            // Of several the first: the app of one change.
            Some(field) if field.label() == Label::Repeated => {
                first(&first(&first(&first(&first(absent.as_bytes())))))
            }
            Some(field) if field.r#type() == Type::Message => first(&first(&first(absent.as_bytes()))),
            _ => Vec::new(),
        }
    }

    /// Calls `method` about `project`.
    pub(crate) async fn call(&self, channel: &Channel, method: &str, project: &str) -> Result<Told> {
        // What is no user's begins with what says nothing.
        let starts = method.starts_with("skerry.relay.v1.RelayService/");
        let frames = if self.methods[method].client_streaming() && !starts {
            Vec::new()
        } else {
            vec![Bytes::from(self.request(method, project))]
        };
        let answer = send(channel, method, frames).await?;
        Ok(match answer.map_err(|status| status.code()) {
            Err(Code::PermissionDenied) => Told::Denied,
            Err(Code::Unauthenticated) => Told::Nobody,
            _ => Told::Through,
        })
    }
}

/// Sends messages as they are; how the answer begins.
pub(crate) async fn send(channel: &Channel, method: &str, frames: Vec<Bytes>) -> Result<Result<(), Status>> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.context("the connection is gone")?;
    let path = format!("/{method}").parse().context("a path")?;
    let calling = client.streaming(Request::new(stream::iter(frames)), path, Raw);
    let answer =
        tokio::time::timeout(PATIENCE, calling).await.with_context(|| format!("calling {method}"))?;
    Ok(answer.map(|_| ()))
}

/// Messages as they are encoded.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
