"""The app for iPhone, iPad and Mac: swift_app/, opened with Xcode."""

from __future__ import annotations

from edgegen.apps.project import AppKind

IOS = AppKind(
    name="ios",
    folder="swift_app",
    parts=(
        "Package.swift",
        "README.md",
        "Sources",
        "App/Edgegen",
        "App/Edgegen.xcodeproj/project.pbxproj",
        "App/Edgegen.entitlements",
        "App/Bundles/README.md",
    ),
    bundles="App/Bundles",
    backends=("coreai", "coreml"),
    opened_with="open {project}/App/Edgegen.xcodeproj",
)
