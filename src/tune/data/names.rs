//! Names of classes.

use crate::error::{Error, Result};
use crate::text::describe::canonical;
use std::collections::HashMap;

/// An error if two names are the same but for case and spaces, or one is empty.
pub(super) fn differ(classes: &[String]) -> Result<()> {
    let mut seen = HashMap::new();
    for class in classes {
        let name = canonical(class);
        if name.is_empty() {
            return Err(Error::run(format!("the class {class:?} has no name")).hint("--classnames gives it one"));
        }
        if let Some(other) = seen.insert(name, class) {
            return Err(Error::run(format!("the classes {other:?} and {class:?} are the same"))
                .hint("--classnames gives classes other names"));
        }
    }
    Ok(())
}

/// Checks that a model sees every name, and no two alike. `tokens` are those of a name alone, without the model's special
/// ones.
///
/// # Errors
/// If two names have the same tokens, or one has none.
pub fn check_names(classes: &[String], tokens: &dyn Fn(&str) -> Result<Vec<u32>>) -> Result<()> {
    let mut seen: HashMap<Vec<u32>, &String> = HashMap::new();
    for class in classes {
        let ids = tokens(class)?;
        if ids.is_empty() {
            return Err(Error::run(format!("of the class name {class:?} nothing is left that the model reads"))
                .hint("--classnames gives the class a name in words"));
        }
        if let Some(other) = seen.insert(ids, class) {
            return Err(Error::run(format!(
                "the model reads the class names {other:?} and {class:?} as the same text"
            ))
            .hint("--classnames gives classes other names"));
        }
    }
    Ok(())
}
