//! Approximate search: a graph of neighbours (HNSW; Malkov and Yashunin 2018) in a file of USearch, beside the embeddings.
//!
//! The graph names candidates; their scores come from the embeddings themselves, so they are those of exact search. What
//! the graph misses is measured when it is built, and written to `NAME.usearch.json` beside it.
//!
//! Rows are added one by one, in order: building takes one thread, and gives the same graph every time.

use super::{Collection, Hit, Metric, Question, Searched, dots, search, squares};
use crate::app::{Interrupt, Progress};
use crate::data::same_model;
use crate::error::{Error, Result};
use crate::eval::Interval;
use crate::output::Target;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use usearch::{IndexOptions, MetricKind, ScalarKind};

/// The neighbours that a row is joined with, the candidates looked at when it is added, and when something is searched
/// for: USearch's own choice.
const CONNECTIVITY: usize = 16;
const EXPANSION_ADD: usize = 128;
const EXPANSION_SEARCH: usize = 64;

/// How many rows stand for all when recall is measured.
const SAMPLE: usize = 200;

/// The numbers of hits for which recall is measured.
const RECALL_AT: [usize; 3] = [1, 10, 100];

/// How many rows stand for all in a fingerprint.
const FINGERPRINT_ROWS: usize = 1024;

/// What is known of a graph, beside it in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The version of this description.
    pub version: u32,
    /// The rows of the embeddings.
    pub rows: usize,
    /// The length of an embedding.
    pub dim: usize,
    /// The model that made the embeddings, if it is known.
    pub model: Option<String>,
    /// A hash over rows that stand for all.
    pub fingerprint: String,
    /// The length of the graph's file.
    pub bytes: u64,
    /// How much of what exact search finds is found.
    pub recall: Vec<Recall>,
}

/// Which share of the hits of exact search is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Among so many hits.
    pub k: usize,
    /// The mean over the queries.
    pub recall: f64,
    /// Its 95 % interval: Wilson's, as if each query were right or wrong as a whole, which is wider than need be.
    pub interval: (f64, f64),
    /// How many queries there were.
    pub queries: usize,
}

/// A graph that can be searched.
pub struct Graph<'a> {
    graph: usearch::Index,
    collection: &'a Collection,
    /// What is known of it.
    pub about: About,
}

/// Builds a graph, measures its recall, and writes both.
///
/// # Errors
/// If the file cannot be written, there is not enough memory, or the job is interrupted.
pub fn build(collection: &Collection, path: &Path, interrupt: Interrupt, progress: &Progress) -> Result<About> {
    // Opened first, so that a bad path costs no time.
    let mut beside = Target::open(&beside(path))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let part = tempfile::Builder::new().prefix(".clip-cli-").suffix(".part").tempfile_in(directory)?;

    let graph = usearch::Index::new(&options(collection.dim())).map_err(failed_at(path))?;
    // The levels of rows are drawn by generators of which each thread has its own.
    graph.reserve_capacity_and_threads(collection.len(), 1).map_err(failed_at(path))?;
    let (dim, mut row) = (collection.dim(), Vec::with_capacity(collection.dim()));
    for position in 0..collection.len() {
        interrupt.check()?;
        row.clear();
        collection.append(position, &mut row);
        if unit(&mut row, dim) {
            graph.add(position as u64, &row).map_err(failed_at(path))?;
        }
        progress.add(1);
    }
    let name = part.path().to_str().ok_or_else(|| Error::run("the path is not UTF-8").at(path.display()))?;
    graph.save(name).map_err(failed_at(path))?;
    let bytes = part.as_file().metadata()?.len();
    let fingerprint = fingerprint(collection);
    let model = collection.model().map(str::to_owned);
    let about = About { version: 1, rows: collection.len(), dim, model, fingerprint, bytes, recall: Vec::new() };
    let mut built = Graph { graph, collection, about };
    built.about.recall = built.measure(interrupt)?;

    let json = serde_json::to_string_pretty(&built.about).map_err(Error::run)? + "\n";
    beside.write_all(json.as_bytes()).map_err(|error| beside.error(error))?;
    part.as_file().sync_all()?;
    beside.commit()?;
    part.persist(path).map_err(|error| Error::run(error.error).at(path.display()))?;
    Ok(built.about)
}

impl<'a> Graph<'a> {
    /// Maps a graph of these embeddings.
    ///
    /// # Errors
    /// If it cannot be read, or is the graph of other embeddings. The file is USearch's: one from a stranger must not be
    /// opened, for its content is believed.
    pub fn open(path: &Path, collection: &'a Collection) -> Result<Self> {
        let at = |error: Error| error.at(path.display());
        let again = |message: &str| at(Error::run(message).hint("build it again: clip-cli index"));
        let text = std::fs::read(beside(path)).map_err(|error| Error::run(error).at(beside(path).display()))?;
        let about: About =
            serde_json::from_slice(&text).map_err(|error| Error::run(error).at(beside(path).display()))?;
        let other_model = match (&about.model, collection.model()) {
            (Some(a), Some(b)) => !same_model(a, b),
            _ => false,
        };
        if about.rows != collection.len() || about.dim != collection.dim() || other_model {
            let theirs = format!("{} embeddings of {} numbers", about.rows, about.dim);
            return Err(again(&format!("this is the index of {theirs}, not of these")));
        }
        if about.fingerprint != fingerprint(collection) {
            return Err(again("the embeddings have changed since the index was built"));
        }
        if std::fs::metadata(path).map_err(|error| at(Error::run(error)))?.len() != about.bytes {
            return Err(again("the index and its description do not belong together"));
        }
        let name = path.to_str().ok_or_else(|| at(Error::run("the path is not UTF-8")))?;
        let graph = usearch::Index::restore_view(name).map_err(|error| at(failed(&error)))?;
        if graph.dimensions() != about.dim || graph.size() > about.rows {
            return Err(again("the index and its description do not belong together"));
        }
        Ok(Self { graph, collection, about })
    }

    /// The hits of each query among the candidates that the graph names, with the scores of exact search.
    ///
    /// # Errors
    /// If the question is one that a graph cannot answer.
    pub fn search(&self, question: &Question<'_>, interrupt: Interrupt) -> Result<Searched> {
        if question.metric != Metric::Cosine {
            return Err(Error::usage("an index is one of cosines: --metric dot needs a search without it"));
        }
        if question.top_k > self.collection.len() {
            return Err(Error::usage("an index names the nearest: say how many with --top-k"));
        }
        // More hits need a wider look.
        self.graph.change_expansion_search(EXPANSION_SEARCH.max(2 * question.top_k));
        let mut hits = Vec::new();
        for query in question.queries.chunks(self.collection.dim()) {
            interrupt.check()?;
            hits.push(self.one(question, query)?);
        }
        Ok(Searched { hits, broken: None })
    }

    fn one(&self, question: &Question<'_>, query: &[f32]) -> Result<Vec<Hit>> {
        let matches = match question.kind {
            None => self.graph.search(query, question.top_k),
            Some(kind) => self.graph.filtered_search(query, question.top_k, |key| {
                (key as usize) < self.collection.len() && self.collection.kind(key as usize) == kind
            }),
        };
        let dim = self.collection.dim();
        let (mut row, mut square, mut hits) = (Vec::new(), [0.0], Vec::new());
        for key in matches.map_err(|error| failed(&error))?.keys {
            let position = key as usize;
            if position >= self.collection.len() {
                return Err(
                    Error::run("the index names rows that are not there").hint("build it again: clip-cli index")
                );
            }
            row.clear();
            self.collection.append(position, &mut row);
            let mut dot = [0.0];
            dots(&row, query, dim, &mut dot);
            squares(&row, dim, &mut square);
            let score = dot[0] * (1.0 / square[0].sqrt().max(1e-12)) + 0.0;
            if score >= question.threshold.unwrap_or(f32::NEG_INFINITY) {
                hits.push(Hit { position, score });
            }
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.position.cmp(&b.position)));
        Ok(hits)
    }

    /// The share of what exact search finds that is found, for queries of unit length.
    ///
    /// # Errors
    /// If the job is interrupted.
    pub fn recall(&self, question: &Question<'_>, found: &Searched, interrupt: Interrupt) -> Result<Recall> {
        let exact = search(self.collection, question, interrupt, &Progress::hidden())?;
        Ok(recall(question.top_k, found.hits.iter().zip(&exact.hits), None))
    }

    /// Recall for rows that stand for all: what is nearest to them beside themselves.
    fn measure(&self, interrupt: Interrupt) -> Result<Vec<Recall>> {
        let (rows, dim) = (self.collection.len(), self.collection.dim());
        let count = rows.min(SAMPLE);
        let (mut queries, mut own) = (Vec::new(), Vec::new());
        for index in 0..count {
            let (position, mut row) = (index * rows / count, Vec::new());
            self.collection.append(position, &mut row);
            if unit(&mut row, dim) {
                queries.extend(row);
                own.push(position);
            }
        }
        let mut measured = Vec::new();
        for k in RECALL_AT.into_iter().filter(|&k| k < rows) {
            let question =
                Question { queries: &queries, top_k: k + 1, threshold: None, kind: None, metric: Metric::Cosine };
            let found = self.search(&question, interrupt)?;
            let exact = search(self.collection, &question, interrupt, &Progress::hidden())?;
            measured.push(recall(k, found.hits.iter().zip(&exact.hits), Some(&own)));
        }
        Ok(measured)
    }
}

/// The mean share of hits that are as good as the worst of the best `k`. `own` are the rows that the queries are.
fn recall<'a>(k: usize, pairs: impl Iterator<Item = (&'a Vec<Hit>, &'a Vec<Hit>)>, own: Option<&[usize]>) -> Recall {
    let (mut sum, mut queries) = (0.0, 0);
    for (index, (found, exact)) in pairs.enumerate() {
        let others = |hit: &&Hit| own.is_none_or(|own| own[index] != hit.position);
        let best: Vec<_> = exact.iter().filter(others).take(k).collect();
        let Some(worst) = best.last() else { continue };
        // Of equal scores either is right.
        let right = found.iter().filter(others).filter(|hit| hit.score >= worst.score).take(best.len()).count();
        sum += right as f64 / best.len() as f64;
        queries += 1;
    }
    let recall = if queries == 0 { 1.0 } else { sum / queries as f64 };
    let Interval(low, high) = Interval::wilson(sum.round() as u64, queries as u64);
    Recall { k, recall, interval: (low.min(recall), high.max(recall)), queries }
}

/// Brings a row to unit length, if its numbers are finite.
fn unit(row: &mut [f32], dim: usize) -> bool {
    let mut square = [0.0];
    squares(row, dim, &mut square);
    let scale = 1.0 / square[0].sqrt().max(1e-12);
    row.iter_mut().for_each(|x| *x *= scale);
    square[0].is_finite()
}

fn options(dim: usize) -> IndexOptions {
    IndexOptions {
        dimensions: dim,
        metric: MetricKind::IP,
        quantization: ScalarKind::F32,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_ADD,
        expansion_search: EXPANSION_SEARCH,
        multi: false,
    }
}

/// A hash over rows that stand for all: a graph must not be used with other embeddings.
fn fingerprint(collection: &Collection) -> String {
    let mut hasher = blake3::Hasher::new();
    let rows = collection.len();
    let count = rows.min(FINGERPRINT_ROWS);
    let mut row = Vec::new();
    for index in 0..count {
        row.clear();
        collection.append(index * rows / count, &mut row);
        row.iter().for_each(|x| {
            hasher.update(&x.to_le_bytes());
        });
    }
    hasher.finalize().to_hex().to_string()
}

/// The description of a graph: `NAME.usearch.json`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".json");
    path.with_file_name(name)
}

fn failed_at<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> Error {
    move |error| failed(&error).at(path.display())
}

fn failed(error: &impl std::fmt::Display) -> Error {
    Error::run(format!("USearch: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Dtype;
    use crate::index::collection::tests::part;

    fn rows(count: usize, seed: u32) -> Vec<Vec<f32>> {
        let number = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 9) as f32 / (1 << 22) as f32 - 1.0;
        (0..count as u32).map(|i| (0..24).map(|j| number(i * 24 + j)).collect()).collect()
    }

    #[test]
    fn a_graph_finds_what_exact_search_finds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.usearch");
        let (interrupt, progress) = (Interrupt::install(), Progress::hidden());
        let collection = Collection::new(vec![part("a", "m@1", Dtype::F32, &rows(1000, 1))]).unwrap();
        let about = build(&collection, &path, interrupt, &progress).unwrap();
        assert_eq!(about.recall.iter().map(|recall| recall.k).collect::<Vec<_>>(), RECALL_AT);
        for recall in &about.recall {
            assert!(recall.recall > 0.9 && recall.queries == SAMPLE, "{recall:?}");
            assert!(recall.interval.0 <= recall.recall && recall.recall <= recall.interval.1);
        }
        let again = directory.path().join("again.usearch");
        build(&collection, &again, interrupt, &progress).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 4);

        let graph = Graph::open(&path, &collection).unwrap();
        assert_eq!(graph.about, about);
        let mut query = rows(1, 7).remove(0);
        assert!(unit(&mut query, 24));
        let question = Question { queries: &query, top_k: 10, threshold: None, kind: None, metric: Metric::Cosine };
        let exact = search(&collection, &question, interrupt, &progress).unwrap();
        let found = graph.search(&question, interrupt).unwrap();
        for hit in &found.hits[0] {
            // Those that are found have the very score.
            assert!(exact.hits[0].contains(hit) || hit.score < exact.hits[0][9].score);
        }
        let recall = graph.recall(&question, &found, interrupt).unwrap();
        assert!(recall.recall >= 0.8, "{recall:?}");
        let texts = Question { kind: Some(crate::data::Kind::Text), ..question };
        let found = graph.search(&texts, interrupt).unwrap();
        assert!(found.hits[0].iter().all(|hit| hit.position % 3 == 2) && !found.hits[0].is_empty());

        let other = Collection::new(vec![part("a", "m@1", Dtype::F32, &rows(1000, 2))]).unwrap();
        assert!(Graph::open(&path, &other).err().unwrap().to_string().contains("have changed since"));
        let fewer = Collection::new(vec![part("a", "m@1", Dtype::F32, &rows(900, 1))]).unwrap();
        assert!(Graph::open(&path, &fewer).err().unwrap().to_string().contains("the index of 1000 embeddings"));
        std::fs::write(&path, "no graph").unwrap();
        assert!(Graph::open(&path, &collection).err().unwrap().to_string().contains("do not belong together"));
    }
}
