//! Where things are kept that can be computed again.

use super::App;
use std::env::var_os;
use std::path::PathBuf;

impl App {
    /// The directory for what this program can compute again: `clip-cli` in `$XDG_CACHE_HOME`, else in `~/.cache`, on
    /// Windows in `%LOCALAPPDATA%`. `None` if there is no such place.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        let set = |name| var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG specification wants relative paths ignored.
        let xdg = set("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        let home = || set(if cfg!(windows) { "LOCALAPPDATA" } else { "HOME" });
        let base = xdg.or_else(|| Some(if cfg!(windows) { home()? } else { home()?.join(".cache") }))?;
        Some(base.join("clip-cli"))
    }
}
