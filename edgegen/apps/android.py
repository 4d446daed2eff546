"""The app for Android: android_app/, opened with Android Studio."""

from __future__ import annotations

from edgegen.apps.project import AppKind

PACKAGE = "org.edgegen.app"
ASSETS = "app/src/main/assets"
PREDICTIONS = f"{ASSETS}/predictions.json"

ANDROID = AppKind(
    name="android",
    folder="android_app",
    parts=(
        "settings.gradle.kts",
        "build.gradle.kts",
        "gradle.properties",
        "gradlew",
        "gradlew.bat",
        "gradle",
        "README.md",
        "docs",
        ".gitignore",
        *(f"{module}/{part}" for module in ("core", "onnx", "executorch", "ui", "app")
          for part in ("build.gradle.kts", "src/main")),
        "app/proguard-rules.pro",
    ),
    bundles=f"{ASSETS}/bundles",
    backends=("onnx", "executorch"),
    opened_with="open {project} with Android Studio",
)  # fmt: skip
