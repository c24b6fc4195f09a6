//! Enrolment tokens: what a machine shows once to become a node.
//!
//! Text: `skt1_<id>_<body>`, both in lower-case base32. The id names the token's record, and may be printed. The body is the secret (32
//! bytes), the pin of the root to trust (32 bytes) and a checksum (6 bytes), so that a token that was cut or mistyped is told from one that is
//! not known, and a machine needs nothing beside it to know its server ([`crate::verify::ServerVerifier::pinned`]).
//!
//! The record keeps only [`TokenHash`], a SHA-256. That is enough here: slow hashes and salts make guessing dear where people choose the
//! secret; this one is 256 random bits, and guessing those is hopeless at any speed. The id is hashed too, so that a record's hash is good
//! under no other id.

use std::fmt;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::encode::{base32, from_base32};
use crate::key::sha256;
use crate::{KeyId, RandomError, random};

/// What every token begins with.
pub const PREFIX: &str = "skt1_";

const ID_BYTES: usize = 10;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 6;
const BODY_BYTES: usize = SECRET_BYTES + 32 + CHECKSUM_BYTES;
const ID_CHARS: usize = ID_BYTES * 8 / 5;
const BODY_CHARS: usize = BODY_BYTES * 8 / 5;

/// How long every token is, in characters.
pub const TOKEN_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + BODY_CHARS;

/// Which token: no secret. 16 of `a-z2-7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Box<str>);

/// What the record of a token keeps of its secret.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

/// A token, with its secret.
#[derive(Clone)]
pub struct Token {
    id: TokenId,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    pin: KeyId,
}

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is something else.
    #[error("not an enrolment token: one begins with {PREFIX}")]
    Prefix,
    /// It was cut, or something was added.
    #[error("an enrolment token has {TOKEN_CHARS} characters; this text has {0}")]
    Length(usize),
    /// It has a character that none of ours has.
    #[error("the enrolment token has a character that none has: a-z, 2-7 and two _ are wanted")]
    Character,
    /// One character or more is another.
    #[error("the enrolment token is mistyped: its checksum does not fit")]
    Checksum,
}

impl TokenId {
    /// Parses 16 of `a-z2-7`.
    pub fn parse(text: &str) -> Option<Self> {
        from_base32::<ID_BYTES>(text).map(|_| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TokenHash {
    /// The hash that a record kept.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What a record is to keep.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `token` is the one, in constant time.
    pub fn matches(&self, token: &Token) -> bool {
        *self == token.hash()
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(redacted)")
    }
}

impl Token {
    /// A new token for machines that shall trust the root with `pin`.
    pub fn generate(pin: KeyId) -> Result<Self, RandomError> {
        let id = TokenId(base32(&*random::bytes::<ID_BYTES>()?).as_str().into());
        Ok(Self { id, secret: random::bytes()?, pin })
    }

    /// Reads a token; white space around it is nothing.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(InvalidToken::Prefix)?;
        if text.len() != TOKEN_CHARS {
            return Err(InvalidToken::Length(text.chars().count()));
        }
        let (id, body) = rest.split_once('_').ok_or(InvalidToken::Character)?;
        if id.len() != ID_CHARS {
            return Err(InvalidToken::Character);
        }
        let id = TokenId::parse(id).ok_or(InvalidToken::Character)?;
        let body = from_base32::<BODY_BYTES>(body).ok_or(InvalidToken::Character)?;
        let (secret, rest) = body.split_at(SECRET_BYTES);
        let (pin, checksum) = rest.split_at(32);
        let token = Self {
            id,
            secret: Zeroizing::new(secret.try_into().expect("split there")),
            pin: KeyId::try_from(pin).expect("split there"),
        };
        if token.checksum() == checksum { Ok(token) } else { Err(InvalidToken::Checksum) }
    }

    /// Which token it is: what its record is found by.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The root that a machine with this token shall trust.
    pub fn pin(&self) -> KeyId {
        self.pin
    }

    /// What the record keeps of the secret.
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(&[b"skerry enrolment token 1 secret", self.id.0.as_bytes(), &*self.secret]))
    }

    /// The whole text, secret and all: to be shown once to whoever asked for it. The name is there to be searched for in review.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut body = Zeroizing::new([0; BODY_BYTES]);
        body[..SECRET_BYTES].copy_from_slice(&*self.secret);
        body[SECRET_BYTES..SECRET_BYTES + 32].copy_from_slice(self.pin.as_bytes());
        body[SECRET_BYTES + 32..].copy_from_slice(&self.checksum());
        let body = base32(&*body);
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_CHARS));
        for part in [PREFIX, self.id.as_str(), "_", &body] {
            text.push_str(part);
        }
        text
    }

    fn checksum(&self) -> [u8; CHECKSUM_BYTES] {
        let hash = sha256(&[
            b"skerry enrolment token 1 checksum",
            self.id.0.as_bytes(),
            &*self.secret,
            self.pin.as_bytes(),
        ]);
        hash[..CHECKSUM_BYTES].try_into().expect("shorter than the hash")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, redacted)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token::generate(KeyId::from_bytes([7; 32])).unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_was_shown() {
        let token = token();
        let text = token.reveal();
        assert_eq!(text.len(), TOKEN_CHARS);
        let again = Token::parse(&format!("  {}\n", *text)).unwrap();
        assert_eq!(again.id(), token.id());
        assert_eq!(again.pin(), KeyId::from_bytes([7; 32]));
        assert!(token.hash().matches(&again));
        assert!(!token.hash().matches(&self::token()));
    }

    #[test]
    fn a_token_is_not_printed_and_its_hash_does_not_hold_it() {
        let token = token();
        assert_eq!(format!("{token:?}"), format!("Token({}, redacted)", token.id()));
        assert_eq!(format!("{:?}", token.hash()), "TokenHash(redacted)");
        assert_ne!(token.hash().as_bytes().as_slice(), token.secret.as_slice());
    }

    #[test]
    fn what_is_wrong_with_a_token_is_told() {
        let text = token().reveal();
        assert_eq!(Token::parse("hello").unwrap_err(), InvalidToken::Prefix);
        assert_eq!(Token::parse("").unwrap_err(), InvalidToken::Prefix);
        assert_eq!(Token::parse(&text[..100]).unwrap_err(), InvalidToken::Length(100));
        assert_eq!(Token::parse(&text.to_uppercase()).unwrap_err(), InvalidToken::Prefix);
        assert_eq!(
            Token::parse(&text.replace('_', "-").replacen('-', "_", 1)).unwrap_err(),
            InvalidToken::Character
        );
    }

    #[test]
    fn two_tokens_share_neither_id_nor_secret() {
        let (one, two) = (token(), token());
        assert_ne!(one.id(), two.id());
        assert_ne!(*one.secret, *two.secret);
    }

    proptest! {
        #[test]
        fn a_mistyped_token_is_told(position in PREFIX.len()..TOKEN_CHARS, letter in "[a-z2-7_]") {
            let text = token().reveal();
            let mut typed = text.to_string();
            typed.replace_range(position..=position, &letter);
            if typed != *text {
                let error = Token::parse(&typed).unwrap_err();
                prop_assert!(matches!(error, InvalidToken::Checksum | InvalidToken::Character), "{}", error);
            }
        }

        #[test]
        fn any_text_is_refused_without_panic(text in any::<String>(), body in "[a-z2-7_é]{120,140}") {
            prop_assert!(Token::parse(&text).is_err());
            let prefixed = format!("{PREFIX}{body}");
            prop_assert!(Token::parse(&prefixed).is_err());
        }
    }
}
