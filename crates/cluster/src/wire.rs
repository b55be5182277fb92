//! How the types of `holdfast-types` look in JSON. That crate knows no serialization; ids become plain numbers.

use holdfast_types::{
    ClusterId, ClusterVersion, Configuration, Durability, Epoch, Generation, GuestLimits, Incarnation, Life, Lsn,
    Member, NodeId, Nominee, Pending, QuorumRule, SocketAccess, VolumeId,
};
use serde::{Deserialize, Serialize};

/// For `#[serde(skip_serializing_if)]`: what is usual is left out, so that it is what it was before there was a choice.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The version of a state that names none: it was written before versions were told.
pub(crate) const fn first_version() -> ClusterVersion {
    ClusterVersion::FIRST
}

/// For `#[serde(skip_serializing_if)]`: a cluster of the first version writes what it always wrote.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_first_version(version: &ClusterVersion) -> bool {
    *version == ClusterVersion::FIRST
}

/// For `#[serde(with)]`: a version as its number.
pub(crate) mod version {
    use holdfast_types::ClusterVersion;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(crate) fn serialize<S: Serializer>(value: &ClusterVersion, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(value.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ClusterVersion, D::Error> {
        u32::deserialize(d).map(ClusterVersion)
    }
}

/// A type that is a number on the wire.
pub(crate) trait Raw: Copy + Ord {
    fn raw(self) -> u64;
    fn from_raw(raw: u64) -> Self;
}

macro_rules! raw {
    ($($name:ident),*) => {$(
        impl Raw for $name {
            fn raw(self) -> u64 {
                self.0
            }
            fn from_raw(raw: u64) -> $name {
                $name(raw)
            }
        }
    )*};
}
raw!(NodeId, VolumeId, ClusterId, Incarnation, Epoch, Life, Lsn, Generation);

/// For `#[serde(with)]`: one number.
pub(crate) mod one {
    use super::Raw;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<T: Raw, S: Serializer>(value: &T, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(value.raw())
    }

    pub(crate) fn deserialize<'de, T: Raw, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        u64::deserialize(d).map(T::from_raw)
    }
}

/// For `#[serde(with)]`: a number or null.
pub(crate) mod opt {
    use super::Raw;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Raw, S: Serializer>(value: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        value.map(T::raw).serialize(s)
    }

    pub(crate) fn deserialize<'de, T: Raw, D: Deserializer<'de>>(d: D) -> Result<Option<T>, D::Error> {
        Option::<u64>::deserialize(d).map(|o| o.map(T::from_raw))
    }
}

/// For `#[serde(with)]`: a list of numbers, for a `Vec` or a set.
pub(crate) mod list {
    use super::Raw;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<'a, C, T, S>(value: &'a C, s: S) -> Result<S::Ok, S::Error>
    where
        &'a C: IntoIterator<Item = &'a T>,
        T: Raw + 'a,
        S: Serializer,
    {
        s.collect_seq(value.into_iter().map(|v| v.raw()))
    }

    pub(crate) fn deserialize<'de, C: FromIterator<T>, T: Raw, D: Deserializer<'de>>(d: D) -> Result<C, D::Error> {
        Vec::<u64>::deserialize(d).map(|v| v.into_iter().map(T::from_raw).collect())
    }
}

/// For `#[serde(with)]`: a map by number.
pub(crate) mod map {
    use super::Raw;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    pub(crate) fn serialize<K: Raw, V: Serialize, S: Serializer>(
        value: &BTreeMap<K, V>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_map(value.iter().map(|(k, v)| (k.raw(), v)))
    }

    pub(crate) fn deserialize<'de, K: Raw, V: Deserialize<'de>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<BTreeMap<K, V>, D::Error> {
        let raw = BTreeMap::<u64, V>::deserialize(d)?;
        Ok(raw.into_iter().map(|(k, v)| (K::from_raw(k), v)).collect())
    }
}

/// For `#[serde(with)]`: which incarnation each node registered, if any.
pub(crate) mod incarnations {
    use holdfast_types::{Incarnation, NodeId};
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    type Map = BTreeMap<NodeId, Option<Incarnation>>;

    pub(crate) fn serialize<S: Serializer>(value: &Map, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(value.iter().map(|(k, v)| (k.0, v.map(|i| i.0))))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Map, D::Error> {
        let raw = BTreeMap::<u64, Option<u64>>::deserialize(d)?;
        Ok(raw.into_iter().map(|(k, v)| (NodeId(k), v.map(Incarnation))).collect())
    }
}

/// For `#[serde(with)]`: the on-disk state on each node.
pub(crate) mod by_node {
    use holdfast_types::{Incarnation, NodeId};
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    type Map = BTreeMap<NodeId, Incarnation>;

    pub(crate) fn serialize<S: Serializer>(value: &Map, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(value.iter().map(|(k, v)| (k.0, v.0)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Map, D::Error> {
        let raw = BTreeMap::<u64, u64>::deserialize(d)?;
        Ok(raw.into_iter().map(|(k, v)| (NodeId(k), Incarnation(v))).collect())
    }
}

/// For `#[serde(with)]`: a number for each number.
pub(crate) mod numbers {
    use super::Raw;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(crate) fn serialize<K: Raw, V: Raw, S: Serializer>(value: &BTreeMap<K, V>, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(value.iter().map(|(k, v)| (k.raw(), v.raw())))
    }

    pub(crate) fn deserialize<'de, K: Raw, V: Raw, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<K, V>, D::Error> {
        let raw = BTreeMap::<u64, u64>::deserialize(d)?;
        Ok(raw.into_iter().map(|(k, v)| (K::from_raw(k), V::from_raw(v))).collect())
    }
}

/// For `#[serde(with)]`: a volume's size in bytes, checked.
pub(crate) mod size {
    use holdfast_types::VolumeSize;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &VolumeSize, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(value.bytes())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<VolumeSize, D::Error> {
        VolumeSize::new(u64::deserialize(d)?).map_err(D::Error::custom)
    }
}

/// For `#[serde(with)]`: numbered sizes in bytes, checked.
pub(crate) mod resizes {
    use holdfast_types::VolumeSize;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &[(u64, VolumeSize)], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(value.iter().map(|(decision, size)| (*decision, size.bytes())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(u64, VolumeSize)>, D::Error> {
        let sizes = Vec::<(u64, u64)>::deserialize(d)?;
        let checked = |(decision, bytes)| VolumeSize::new(bytes).map(|size| (decision, size));
        sizes.into_iter().map(checked).collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Durability", rename_all = "lowercase")]
pub(crate) enum DurabilityDef {
    Sync,
    Flush,
    Async,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "GuestLimits", deny_unknown_fields)]
pub(crate) struct GuestLimitsDef {
    iops: u64,
    bandwidth: u64,
    burst_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SocketAccess", deny_unknown_fields)]
pub(crate) struct SocketAccessDef {
    owner: String,
    group: String,
    mode: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "QuorumRule", rename_all = "lowercase")]
pub(crate) enum QuorumRuleDef {
    Primary,
    Majority,
    All,
    Chosen(u8),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Configuration", deny_unknown_fields)]
pub(crate) struct ConfigurationDef {
    #[serde(with = "one")]
    epoch: Epoch,
    #[serde(with = "opt")]
    primary: Option<NodeId>,
    #[serde(with = "members")]
    members: Vec<Member>,
    write_quorum: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberWire {
    node: u64,
    incarnation: u64,
}

pub(crate) mod members {
    use super::MemberWire;
    use holdfast_types::{Incarnation, Member, NodeId};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &[Member], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(value.iter().map(|m| MemberWire { node: m.node.0, incarnation: m.incarnation.0 }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Member>, D::Error> {
        let wire = Vec::<MemberWire>::deserialize(d)?;
        Ok(wire.iter().map(|m| Member { node: NodeId(m.node), incarnation: Incarnation(m.incarnation) }).collect())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Pending", deny_unknown_fields)]
struct PendingDef {
    #[serde(with = "ConfigurationDef")]
    configuration: Configuration,
    #[serde(with = "one")]
    base: Epoch,
    #[serde(with = "one")]
    life: Life,
    same_primary: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Nominee", deny_unknown_fields)]
struct NomineeDef {
    #[serde(with = "one")]
    node: NodeId,
    #[serde(with = "one")]
    base: Epoch,
    planned: bool,
}

macro_rules! optional {
    ($(#[$doc:meta])* $module:ident, $type:ident, $def:literal) => {
        $(#[$doc])*
        pub(crate) mod $module {
            use super::*;
            use serde::{Deserializer, Serializer};

            #[derive(Serialize, Deserialize)]
            struct Wire(#[serde(with = $def)] $type);

            pub(crate) fn serialize<S: Serializer>(value: &Option<$type>, s: S) -> Result<S::Ok, S::Error> {
                value.clone().map(Wire).serialize(s)
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<$type>, D::Error> {
                Option::<Wire>::deserialize(d).map(|o| o.map(|w| w.0))
            }
        }
    };
}
optional!(
    /// For `#[serde(with)]`.
    pending, Pending, "super::PendingDef");
optional!(
    /// For `#[serde(with)]`.
    nominee, Nominee, "super::NomineeDef");
