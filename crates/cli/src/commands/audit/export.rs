//! Chains in a file: one JSON object a line, first the head of a chain, then its records.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skerry_manifest::output;
use skerry_proto::registry::v1::{AuditChain, AuditRecord};

use crate::error::CliError;

/// A chain as a line.
pub(super) fn chain_line(chain: &AuditChain) -> String {
    output::other("AuditChain", "skerry.registry.v1.AuditChain", chain).to_json()
}

/// A record as a line.
pub(super) fn record_line(record: &AuditRecord) -> String {
    output::other("AuditRecord", "skerry.registry.v1.AuditRecord", record).to_json()
}

/// Reads what [`chain_line`] and [`record_line`] wrote.
pub(super) fn read(path: &Path) -> Result<Vec<(AuditChain, Vec<AuditRecord>)>, CliError> {
    let failed = |why: String| CliError::Failed(format!("reading {}: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut chains: Vec<(AuditChain, Vec<AuditRecord>)> = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let at = |why: &str| failed(format!("line {}: {why}", index + 1));
        let line = line.map_err(|error| at(&error.to_string()))?;
        let fields: serde_json::Value = serde_json::from_str(&line)
            .map_err(|_| at("not a JSON object: is it from `skerry audit export`?"))?;
        let parsed = (|| match fields.get("kind")?.as_str()? {
            "AuditChain" => Some(Line::Chain(chain(&fields)?)),
            "AuditRecord" => Some(Line::Record(Box::new(record(&fields)?))),
            _ => None,
        })();
        match (parsed, chains.last_mut()) {
            (Some(Line::Chain(chain)), _) => chains.push((chain, Vec::new())),
            (Some(Line::Record(record)), Some((_, records))) => records.push(*record),
            (Some(Line::Record(_)), None) => return Err(at("a record comes before the head of its chain")),
            (None, _) => return Err(at("neither a chain nor a record")),
        }
    }
    if chains.is_empty() {
        return Err(failed("there is no chain in it".to_owned()));
    }
    Ok(chains)
}

enum Line {
    Chain(AuditChain),
    Record(Box<AuditRecord>),
}

/// Canonical JSON leaves out what is empty, and has numbers of 64 bits as text.
fn chain(fields: &serde_json::Value) -> Option<AuditChain> {
    Some(AuditChain {
        name: text(fields, "name")?,
        sequence: number(fields, "sequence")?,
        hash: bytes(fields, "hash")?,
        removed_sequence: number(fields, "removedSequence")?,
        removed_hash: bytes(fields, "removedHash")?,
        last_time: None,
    })
}

fn record(fields: &serde_json::Value) -> Option<AuditRecord> {
    Some(AuditRecord {
        chain: text(fields, "chain")?,
        sequence: number(fields, "sequence")?,
        entry: bytes(fields, "entry")?,
        previous_hash: bytes(fields, "previousHash")?,
        hash: bytes(fields, "hash")?,
        content: None,
    })
}

fn text(fields: &serde_json::Value, name: &str) -> Option<String> {
    fields.get(name)?.as_str().map(str::to_owned)
}

fn number(fields: &serde_json::Value, name: &str) -> Option<u64> {
    match fields.get(name) {
        None => Some(0),
        Some(value) => value.as_u64().or_else(|| value.as_str()?.parse().ok()),
    }
}

fn bytes(fields: &serde_json::Value, name: &str) -> Option<bytes::Bytes> {
    match fields.get(name) {
        None => Some(bytes::Bytes::new()),
        Some(value) => STANDARD.decode(value.as_str()?).ok().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_to_the_byte() {
        let chain = AuditChain {
            name: "registry-1".into(),
            sequence: u64::MAX,
            hash: vec![0xff; 32].into(),
            removed_sequence: 7,
            removed_hash: vec![1; 32].into(),
            last_time: None,
        };
        let record = AuditRecord {
            chain: "registry-1".into(),
            sequence: 8,
            entry: vec![0, 1, 254].into(),
            previous_hash: vec![1; 32].into(),
            hash: vec![2; 32].into(),
            content: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        std::fs::write(&path, format!("{}\n{}\n", chain_line(&chain), record_line(&record))).unwrap();
        assert_eq!(read(&path).unwrap(), [(chain, vec![record])]);
    }

    #[test]
    fn a_file_that_is_no_export_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("export");
        let why = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path).unwrap_err().summary()
        };
        assert!(why("").ends_with("there is no chain in it"));
        assert!(why("x").contains("line 1: not a JSON object"));
        assert!(why("{\"kind\":\"App\"}").ends_with("line 1: neither a chain nor a record"));
        let early = "{\"kind\":\"AuditRecord\",\"chain\":\"c\"}";
        assert!(why(early).ends_with("line 1: a record comes before the head of its chain"));
    }
}
