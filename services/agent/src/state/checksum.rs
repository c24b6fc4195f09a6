//! Small files of the agent: 8 bytes of magic, which are the version too; 32 bytes of BLAKE3 over the rest; the rest.

use prost::Message;
use prost::bytes::Bytes;

use super::Disk;

/// A file with `body` in it.
pub(crate) fn sealed(magic: [u8; 8], body: &[u8]) -> Vec<u8> {
    [&magic[..], blake3::hash(body).as_bytes(), body].concat()
}

/// What stands behind the magic and the checksum of a file, if they are right.
pub(crate) fn checked(magic: [u8; 8], bytes: &[u8]) -> Result<&[u8], &'static str> {
    let (found, rest) = bytes.split_at_checked(magic.len()).ok_or("is too short")?;
    let (hash, body) = rest.split_at_checked(blake3::OUT_LEN).ok_or("is too short")?;
    if *found != magic {
        return Err("is not of this version");
    }
    if blake3::hash(body).as_bytes() != hash {
        return Err("is damaged: its checksum does not match");
    }
    Ok(body)
}

/// A file of length-delimited messages.
pub(crate) fn messages<'a, M: Message + 'a>(magic: [u8; 8], all: impl Iterator<Item = &'a M>) -> Vec<u8> {
    sealed(magic, &all.flat_map(M::encode_length_delimited_to_vec).collect::<Vec<u8>>())
}

/// The messages of such a file of at most `bytes_max`; none where there is no file. With what is wrong, in words that name the file.
pub(crate) fn read_messages<M: Message + Default>(
    disk: &impl Disk,
    file: &str,
    bytes_max: u64,
    magic: [u8; 8],
) -> Result<Vec<M>, String> {
    let bytes = disk.read(file, bytes_max).map_err(|error| format!("{file} cannot be read: {error}"))?;
    let Some(bytes) = bytes else { return Ok(Vec::new()) };
    let mut body = Bytes::copy_from_slice(checked(magic, &bytes).map_err(|why| format!("{file} {why}"))?);
    let mut all = Vec::new();
    while !body.is_empty() {
        let one = M::decode_length_delimited(&mut body)
            .map_err(|error| format!("{file} does not decode: {error}"))?;
        all.push(one);
    }
    Ok(all)
}
