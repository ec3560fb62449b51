//! The names that a kind of checkpoint gives to our parameters.

/// A way to name parameters on disk: one rule a parameter, tried in order.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    rules: Vec<Rule>,
    ignored: Vec<&'static str>,
}

/// How one parameter of ours is made from tensors on disk.
#[derive(Clone, Debug)]
pub struct Rule {
    ours: String,
    theirs: Vec<String>,
    form: Form,
}

/// What is done to the tensors that a rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nothing: one tensor, as it is.
    Plain,
    /// Several tensors are stacked along the first dimension.
    Stacked,
    /// One matrix is transposed.
    Transposed,
}

/// The tensors on disk that make up a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Their names.
    pub names: Vec<String>,
    /// What is done to them.
    pub form: Form,
}

impl Layout {
    /// Our parameter `ours` is their tensor `theirs`. In both, `{}` stands for a number and a final `*` for the rest
    /// of the name.
    #[must_use]
    pub fn plain(self, ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        self.rule(ours.into(), vec![theirs.into()], Form::Plain)
    }

    /// Our parameter is their matrix, transposed.
    #[must_use]
    pub fn transposed(self, ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        self.rule(ours.into(), vec![theirs.into()], Form::Transposed)
    }

    /// Our parameter is several of theirs, stacked along the first dimension.
    #[must_use]
    pub fn stacked<S: Into<String>>(self, ours: impl Into<String>, theirs: impl IntoIterator<Item = S>) -> Self {
        self.rule(ours.into(), theirs.into_iter().map(Into::into).collect(), Form::Stacked)
    }

    /// Tensors that no tower needs (buffers that old versions saved, a decoder) and are passed over. A leading `*`
    /// stands for any beginning, a final one for any end.
    #[must_use]
    pub fn ignoring(mut self, theirs: &'static str) -> Self {
        self.ignored.push(theirs);
        self
    }

    /// Puts another layout's rules behind these.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.rules.extend(other.rules);
        self.ignored.extend(other.ignored);
        self
    }

    /// The tensors on disk that make up our parameter of this name.
    pub fn recipe(&self, ours: &str) -> Option<Recipe> {
        self.rules.iter().find_map(|rule| {
            let holes = match_pattern(&rule.ours, ours)?;
            let names = rule.theirs.iter().map(|theirs| fill(theirs, &holes)).collect();
            Some(Recipe { names, form: rule.form })
        })
    }

    /// Whether no tower needs a tensor on disk.
    pub fn ignores(&self, theirs: &str) -> bool {
        self.ignored.iter().any(|pattern| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(end), _) => theirs.ends_with(end),
            (None, Some(beginning)) => theirs.starts_with(beginning),
            (None, None) => theirs == *pattern,
        })
    }

    /// Our name for a tensor on disk, if a rule speaks of it.
    pub fn ours(&self, theirs: &str) -> Option<String> {
        self.rules.iter().find_map(|rule| {
            let holes = rule.theirs.iter().find_map(|pattern| match_pattern(pattern, theirs))?;
            Some(fill(&rule.ours, &holes))
        })
    }

    fn rule(mut self, ours: String, theirs: Vec<String>, form: Form) -> Self {
        self.rules.push(Rule { ours, theirs, form });
        self
    }
}

/// What the `{}` and the final `*` of a pattern stand for in a name, if it fits.
fn match_pattern(pattern: &str, name: &str) -> Option<Vec<String>> {
    let mut holes = Vec::new();
    let mut rest = name;
    let mut pattern = pattern;
    loop {
        let Some(hole) = pattern.find(['{', '*']) else {
            return (pattern == rest).then_some(holes);
        };
        rest = rest.strip_prefix(&pattern[..hole])?;
        if pattern[hole..].starts_with('*') {
            holes.push(rest.to_owned());
            return Some(holes);
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        holes.push(rest[..digits].to_owned());
        rest = &rest[digits..];
        pattern = &pattern[hole + "{}".len()..];
    }
}

fn fill(pattern: &str, holes: &[String]) -> String {
    let mut holes = holes.iter();
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(hole) = rest.find(['{', '*']) {
        out.push_str(&rest[..hole]);
        out.push_str(holes.next().map_or("", String::as_str));
        rest = if rest[hole..].starts_with('*') { "" } else { &rest[hole + "{}".len()..] };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate_both_ways() {
        let layout = Layout::default()
            .plain("image.blocks.{}.norm1.*", "vision_model.encoder.layers.{}.layer_norm1.*")
            .stacked("image.blocks.{}.qkv.*", ["a.{}.q.*", "a.{}.k.*", "a.{}.v.*"])
            .transposed("image.proj.weight", "visual.proj")
            .ignoring("*.position_ids")
            .ignoring("text_decoder.*");
        let recipe = layout.recipe("image.blocks.11.norm1.bias").unwrap();
        assert_eq!(recipe.names, ["vision_model.encoder.layers.11.layer_norm1.bias"]);
        let recipe = layout.recipe("image.blocks.3.qkv.weight").unwrap();
        assert_eq!(
            (recipe.names.join(" "), recipe.form),
            ("a.3.q.weight a.3.k.weight a.3.v.weight".into(), Form::Stacked)
        );
        assert_eq!(layout.recipe("image.proj.weight").unwrap().form, Form::Transposed);
        assert_eq!(layout.recipe("image.proj.bias"), None);
        assert_eq!(layout.ours("a.7.k.bias").unwrap(), "image.blocks.7.qkv.bias");
        assert!(layout.ignores("text_model.embeddings.position_ids") && !layout.ignores("visual.proj"));
        assert!(layout.ignores("text_decoder.ln_final.bias") && !layout.ignores("text_decoder"));
    }
}
