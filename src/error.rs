//! One error type for the whole program: what happened, where, and what to do.
//!
//! An [`Error`] ends a command; an [`ItemError`] belongs to one image or text and becomes a record in the output.

use std::fmt;

/// What kind of failure ended a command; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line asks for something that makes no sense (exit code 2).
    Usage,
    /// The model, input, output or device cannot be used (exit code 3).
    Run,
    /// The reader of our standard output went away (exit code 0).
    ClosedPipe,
    /// Ctrl-C or SIGTERM (exit code 130).
    Interrupted,
}

/// A failure that ends a command.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// The result of anything that can end a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The command line cannot be carried out as written.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The model, input, output or device cannot be used.
    pub fn run(message: impl fmt::Display) -> Self {
        Self::new(Kind::Run, message)
    }

    /// The job was interrupted.
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hint: None }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Says where it happened, in front of what happened.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the user can do about it, if we know.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The process exit code of a command that ended with this error.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::ClosedPipe => 0,
            Kind::Usage => 2,
            Kind::Run => 3,
            Kind::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::run(error)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        let kind = if error.kind() == std::io::ErrorKind::BrokenPipe { Kind::ClosedPipe } else { Kind::Run };
        Self::new(kind, error)
    }
}

/// Why one image or text gave no result. The kinds are part of the JSON Lines contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemError {
    /// What kind of failure it was.
    pub kind: ItemKind,
    /// A sentence for people, without the item's name.
    pub message: String,
}

/// The kinds of [`ItemError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// There is no such file.
    NotFound,
    /// The file or its directory may not be read, or reading failed.
    Unreadable,
    /// The file holds nothing.
    Empty,
    /// The content is not an image in a format that we read.
    Unsupported,
    /// The content ends too early.
    Truncated,
    /// The content breaks the rules of its format.
    Corrupt,
    /// The image is larger than the limits allow.
    TooLarge,
    /// The record cannot be used (bad JSON, wrong type, not UTF-8, another model's embedding).
    Invalid,
}

impl ItemKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::NotFound,
        Self::Unreadable,
        Self::Empty,
        Self::Unsupported,
        Self::Truncated,
        Self::Corrupt,
        Self::TooLarge,
        Self::Invalid,
    ];

    /// The kind of this name; `Invalid` for names that we do not know.
    pub fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or(Self::Invalid)
    }

    /// The name that JSON Lines records carry.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Unreadable => "unreadable",
            Self::Empty => "empty",
            Self::Unsupported => "unsupported",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
        }
    }
}

impl ItemError {
    /// An error of this kind with a sentence for people.
    pub fn new(kind: ItemKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string() }
    }
}

impl From<std::io::Error> for ItemError {
    fn from(error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ItemKind::NotFound,
            std::io::ErrorKind::UnexpectedEof => ItemKind::Truncated,
            _ => ItemKind::Unreadable,
        };
        Self::new(kind, error)
    }
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ItemError {}
