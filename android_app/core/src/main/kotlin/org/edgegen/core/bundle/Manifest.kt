package org.edgegen.core.bundle

const val MANIFEST = "manifest.json"
const val FORMAT_VERSION = 1
const val TEXT_ENCODER = "text_encoder"
const val TRANSFORMER = "transformer"
const val DECODER = "decoder"
val COMPONENTS = listOf(TEXT_ENCODER, TRANSFORMER, DECODER)
val BACKENDS = listOf("coreml", "coreai", "onnx", "executorch")

/** Name, static shape and NumPy dtype of an input or output. */
data class TensorSpec(val name: String, val shape: List<Int>, val dtype: String)

/** Something in the bundle with the sha256 and bytes it must have. */
interface BundleFile {
    val path: String
    val sha256: String
    val bytes: Long
}

/** One component on one back end; [inputs] are in call order, [options] are those of the runtime's session. */
data class Artifact(
    val name: String,
    val backend: String,
    override val path: String,
    override val sha256: String,
    override val bytes: Long,
    val residentBytes: Long,
    val form: String,
    val inputs: List<TensorSpec>,
    val outputs: List<TensorSpec>,
    val options: Map<String, String>,
) : BundleFile {
    /** The network that it is, or is a chunk of: transformer_2 is of transformer. */
    val network: String get() = name.replace(Regex("_[1-9][0-9]?$"), "")
}

/** A tokenizer and how many ids it gives: `word` (WordPiece) or `byte`. */
data class TokenizerFile(
    val name: String,
    override val path: String,
    override val sha256: String,
    override val bytes: Long,
    val length: Int,
) : BundleFile

/** How a sigma t becomes the transformer's input: cosines, then sines, of scale * t * maxPeriod^(-i / (size / 2)). */
data class TimestepDefinition(val size: Int, val scale: Double, val maxPeriod: Double, val order: String)

/** A further tier of a bundle: what is its own. The rest it shares with the first. */
data class TierPart(
    val tier: String,
    val width: Double,
    val floorsDb: Map<String, Double>,
    val components: List<Artifact>,
)

/** What the bundle's manifest.json says, by the bundle contract of edgegen. */
data class Manifest(
    val model: String,
    val tier: String,
    val width: Double,
    val resolution: List<Int>, // pixels: width, height
    val steps: Int,
    val sigmas: List<Double>, // steps + 1, from 1 to 0
    val shift: Double,
    val guidance: Double,
    val bits: Double, // per stored weight
    val latentShape: List<Int>, // (1, C, h, w)
    val timestepFeatures: TimestepDefinition,
    val tokenizers: List<TokenizerFile>,
    val prompts: List<String>,
    val floorsDb: Map<String, Double>,
    val checkpointName: String,
    val checkpointKind: String,
    val toolVersions: Map<String, String>,
    val components: List<Artifact>,
    val tiers: List<TierPart> = emptyList(), // further ones, of which one is chosen at the start
) {
    val files: List<BundleFile> get() = components + tokenizers + tiers.flatMap { it.components }

    /** The manifest once for each of its tiers, as if that were the only one. */
    val each: List<Manifest> get() = listOf(copy(tiers = emptyList())) + tiers.map(::of)

    /** A further tier: on each of its back ends, what is not its own is the first tier's. */
    private fun of(part: TierPart): Manifest {
        val own = part.components.map { it.network to it.backend }.toSet()
        val backends = part.components.map { it.backend }.toSet()
        val shared = components.filter { it.backend in backends && (it.network to it.backend) !in own }
        return copy(tier = part.tier, width = part.width, floorsDb = part.floorsDb, components = shared + part.components,
            tiers = emptyList())
    }

    /** Back ends with all three components, in the manifest's order. */
    val wholeBackends: List<String>
        get() = components.groupBy { it.backend }.filterValues { parts -> parts.map { it.name }.containsAll(COMPONENTS) }
            .keys.toList()
}
